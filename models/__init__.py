"""Models: configuration, text, architectures, kernels, inference, anomaly scores and the saved form."""

import importlib.metadata
import os

# ONNX Runtime sends telemetry to its vendor unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def installed_version() -> str:
    """Return the version that pyproject.toml names, or "unknown" where nextchar is not installed."""
    try:
        return importlib.metadata.version("nextchar")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
