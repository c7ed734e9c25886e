"""`keras` and `tf`, loaded when something of them is first used.

An architecture's file also says, to a process without TensorFlow, what the architecture is and which options
it has. So it takes both libraries from here, and loading the file costs nothing.
"""

import importlib
from typing import Any


class _Lazy:
    """A module that is imported when an attribute of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


keras: Any = _Lazy("keras")
tf: Any = _Lazy("tensorflow")
