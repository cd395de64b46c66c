"""Other model servers, at their best settings, with the model and the decoding of the server benchmark."""
