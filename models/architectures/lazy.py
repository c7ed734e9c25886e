"""Lazy `keras` and `tf`, imported on first use.

The API reads the options of architectures without TensorFlow, so their modules import both from here.
"""

import importlib
from typing import Any


class _Lazy:
    """A module that is imported when one of its attributes is first accessed.

    Tools such as pytest look up names like `__test__` and `_mock_name` in all that a module has. Names that
    begin with an underscore import nothing: they are missing.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


keras: Any = _Lazy("keras")
tf: Any = _Lazy("tensorflow")
