"""The version of nextchar."""

import importlib.metadata


def installed_version() -> str:
    """Return the version that pyproject.toml names, or "unknown" where nextchar is not installed."""
    try:
        return importlib.metadata.version("nextchar")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
