"""The training process. Its parent runs RQ; TensorFlow is imported only in the child that trains."""

import os

# NumPy's library then computes the same bits on any number of cores, and starts no thread for each core of
# the host. The kernels of `models.kernels` have threads of their own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
