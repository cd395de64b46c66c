"""Models that are not ours: ONNX files in Triton's layout, without a manifest."""
