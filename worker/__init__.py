"""The training process. Its parent runs RQ; TensorFlow is imported only in the child that trains."""
