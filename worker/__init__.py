"""The training process. Its parent runs RQ; TensorFlow is imported only in children that train with it."""
