"""What a job says of a text before it is trained on, because later it would be too late."""

from collections.abc import Iterable

from models.text.masks import Masks

_SAMPLE_CHARACTERS = 100_000
_FEWEST_LINES = 50
_SHARE = 0.8  # of lines with a timestamp


def timestamps(pieces: Iterable[str]) -> str | None:
    """Return advice if most lines of a text, which comes in pieces, carry a timestamp; None if not."""
    sample = ""
    for piece in pieces:
        sample += piece[:_SAMPLE_CHARACTERS]
        if len(sample) >= _SAMPLE_CHARACTERS:
            break
    lines = [line for line in sample.split("\n")[:-1] if line]
    if len(lines) < _FEWEST_LINES:
        return None
    mask = Masks(["timestamp"])
    if sum(mask.apply(line).starts is not None for line in lines) < _SHARE * len(lines):
        return None
    return (
        "most lines carry a timestamp, and later lines will carry others: the model will soon flag too many;"
        ' to find anomalies train with the default masks of a log, or with "masks": ["timestamp"]'
    )
