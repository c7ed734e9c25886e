"""Advice on a text before training."""

from collections.abc import Iterable

from nextchar.models.text.masks import Masks

_SAMPLE_CHARACTERS = 100_000
_MIN_LINES = 50
_MIN_FRACTION = 0.8  # of lines with a timestamp


def timestamps(pieces: Iterable[str]) -> str | None:
    """Return advice if most lines of a text, given in pieces, have a timestamp; else None."""
    sample = ""
    for piece in pieces:
        sample += piece[:_SAMPLE_CHARACTERS]
        if len(sample) >= _SAMPLE_CHARACTERS:
            break
    lines = [line for line in sample.split("\n")[:-1] if line]
    if len(lines) < _MIN_LINES:
        return None
    mask = Masks(["timestamp"])
    if sum(mask.apply(line).starts is not None for line in lines) < _MIN_FRACTION * len(lines):
        return None
    return (
        "most lines have a timestamp, and the timestamps of later lines will be flagged as anomalous;"
        ' to find anomalies train with the default masks of a log, or with "masks": ["timestamp"]'
    )
