"""Layers own weights and call ops; the papers' parts by the papers' names."""
