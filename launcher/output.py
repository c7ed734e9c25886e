"""What the launcher prints: one line a message on standard error, each naming who speaks."""

import contextlib
import sys


def say(text: str, *, who: str = "nextchar") -> None:
    """Print a message. A terminal that is gone or a full disk must not stop what we look after."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        print(f"{who}: {text}", file=sys.stderr, flush=True)
