"""What a model is, how it is kept and how it runs. Knows no HTTP and no Redis."""

import os

# ONNX Runtime reports to its maker unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
