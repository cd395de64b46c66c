"""Checkpoint to ONNX, each step compared with PyTorch."""
