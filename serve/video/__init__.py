"""Clips: out of their containers, through a denoiser and back, with limits on what hostile bytes can take."""
