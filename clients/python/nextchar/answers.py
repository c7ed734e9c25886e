"""The name of `nextchar.types` up to version 0.1."""

from nextchar.types import *  # noqa: F403
from nextchar.types import AnomalousSpan as OddSpan  # noqa: F401  # its name then
