"""The Open Inference Protocol with Triton's extensions: tensors in, tensors out, under /v2."""
