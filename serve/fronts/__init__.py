"""Several processes as one server: fronts that speak HTTP, one for the engines, and who starts them."""
