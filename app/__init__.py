"""The HTTP API. Imports no TensorFlow, no Keras and nothing of `worker`."""
