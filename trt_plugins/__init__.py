"""The ops of skipvit.ops as TensorRT plugins: one record an op (operators/), one CUDA kernel an op (kernels/).

Nothing here imports torch or TensorRT when it is loaded, but torch_kernels.py, which is about torch.
"""
