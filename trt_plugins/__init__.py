"""The ops of skipvit.ops as TensorRT plugins: the room is laid out, nothing in it is built yet."""
