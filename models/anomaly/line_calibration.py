"""Calibrating a model on normal lines: those of a request, or those of a corpus."""

from collections.abc import Iterable, Iterator

from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.anomaly.calibration_builder import CalibrationBuilder
from nextchar.models.anomaly.scorer import ReadPrecision
from nextchar.models.errors import TooLarge
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.session import Check
from nextchar.models.text.lines import MAX_LINE_CHARACTERS

_MAX_CHARACTERS = 20_000_000  # of calibration lines: some minutes
_MAX_LINES = 2_000_000  # some hundred megabytes of statistics
_BATCH_CHARACTERS = 200_000  # read at a time
_MAX_CHARACTERS_IN_BOTH = 2_000_000  # of lines that are read in float32 and int8: a minute
_LINE_OVERHEAD = 20  # characters that a line counts for in addition to its own


def calibrate(
    loaded: LoadedModel, lines: Iterable[str], *, characters: int, buckets: int, check: Check
) -> Calibration:
    """Return the calibration of normal lines.

    `lines` are characters of the model, about `characters` of them in all; they are read as they are needed.
    `buckets` is the number of buckets by line length. What `check`, called between pieces of work, raises
    ends it.

    Raises:
        InvalidInput: there are too few lines.
        TooLarge: there are too many.
    """
    if "\r" not in loaded.vocabulary.characters:  # as in streams
        lines = (line.removesuffix("\r") for line in lines)
    # Requests with JSON are scored in float32, streams in int8: if there is time, calibrate for both.
    precision: ReadPrecision = "both" if characters <= _MAX_CHARACTERS_IN_BOTH else "fast"
    builder = CalibrationBuilder()
    for batch in _batches(lines):
        check()
        truncated = [line[:MAX_LINE_CHARACTERS] for line in batch]
        scored = loaded.scorer.read(truncated, precision=precision, check=check)
        builder.add([line.surprisal for line in scored])
    return builder.build(buckets=buckets)


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = total = 0
    for count, line in enumerate(lines, 1):
        batch.append(line)
        size += len(line) + _LINE_OVERHEAD
        total += len(line)
        if total > _MAX_CHARACTERS or count > _MAX_LINES:
            raise TooLarge(
                f"a calibration takes at most {_MAX_LINES:,} lines and {_MAX_CHARACTERS:,} characters; send a"
                " sample",
                code="calibration_too_large",
            )
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch
