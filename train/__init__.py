"""Data to checkpoint: recipes, the training loop, evaluation."""
