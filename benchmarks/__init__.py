"""Programs that measure, and results/*.csv, the only source of the figures in README."""
