"""Which models and versions are served, how they come and go, and which of a group answers."""
