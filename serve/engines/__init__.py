"""What runs a model, and which of them runs which."""
