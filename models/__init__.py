"""Models: configuration, text, architectures, kernels, inference, anomaly scores and the saved form."""

import os

# ONNX Runtime sends telemetry to its vendor unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
