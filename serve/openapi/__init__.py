"""The routes in OpenAPI's terms."""
