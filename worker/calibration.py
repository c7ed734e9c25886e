"""What a model needs to judge lines: n-grams of its text, and what the lines of its held-out text score."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.anomaly import ngram_surprisal
from models.anomaly.calibration import MIN_LINES, Calibration, calibrate
from models.anomaly.precision import higher
from models.runtime.engine import INT8_FILE
from models.runtime.session import Network, open_network
from models.runtime.surprisal import line_surprisal
from store.calibrations import MODEL_FILE, validation_file
from worker.prepared_text import Text

_CHARACTERS = (
    5_000_000  # of the held-out text, from its end, as later lines are most like it: a minute or two
)
_MARGIN_BITS = 1.0  # of a log: a line must be twice as rare. docs/anomalies.md has the figures
_MIN_DISTINCT = 0.1  # of the held-out lines of a log, or older ones are taken, too
_OLDER = 3  # times as many characters as are held out
_LONGEST_LINE = 50_000  # longer ones are no lines


def anomaly_files(
    graph: bytes, text: Text, *, cores: int, int8: bytes | None = None, is_log: bool = False
) -> dict[str, bytes]:
    """Return the files of a model that scores need: the n-grams, and the calibration if it can be made.

    It is made on the newest whole lines of the held-out text, read as lines are when they are scored: each by
    itself, after a newline, in float32 and with the weights `int8`, if there are any. For a log, whose lines
    change with time, see `_older_lines` and `_with_margin`.
    """
    counted = ngram_surprisal.ngram_of(text.train[-ngram_surprisal.MAX_CHARACTERS :], text.vocabulary)
    files = {ngram_surprisal.FILE: ngram_surprisal.dump(counted)}
    held_out = text.vocabulary.decode(text.validation[-_CHARACTERS:])
    follows_newline = len(text.validation) <= _CHARACTERS and text.vocabulary.decode(text.train[-1:]) == "\n"
    whole = held_out.split("\n")[0 if follows_newline else 1 : -1]
    lines = [line for line in whole if len(line) <= _LONGEST_LINE]
    if is_log:
        lines = _older_lines(text, lines) + lines
    if len(lines) >= MIN_LINES:
        readings = line_surprisal(Network(graph, threads=cores), text.vocabulary, lines, with_end=True)
        if int8:
            network = open_network(INT8_FILE, int8, threads=cores)
            readings = higher(readings, line_surprisal(network, text.vocabulary, lines, with_end=True))
        made = calibrate(ngram_surprisal.with_ngram(readings, lines, counted))
        files[MODEL_FILE] = validation_file(_with_margin(made) if is_log else made)
    return files


def _older_lines(text: Text, lines: Sequence[str]) -> list[str]:
    """Return lines of the end of the training text if those held out are nearly all alike; else none.

    A short stretch of a log may be one burst of the same few lines, which say nothing of the others. The
    network has seen the older lines, so they score a little lower than they should: still better than none.
    """
    if len(set(lines)) >= _MIN_DISTINCT * len(lines):
        return []
    characters = min(_CHARACTERS, _OLDER * sum(len(line) + 1 for line in lines))
    older = text.vocabulary.decode(text.train[-characters:]).split("\n")[1:-1]
    return [line for line in older if len(line) <= _LONGEST_LINE]


def _with_margin(made: Calibration) -> Calibration:
    """Return a calibration by which lines are flagged only if they are rarer by _MARGIN_BITS.

    The promise is for lines like the calibration lines. Those of a log are a short stretch of it, and the
    kinds of lines change: what comes later is a little rarer. The highest twentieth of the scores moves by
    the margin, the lower nine tenths stay, so that drift is told as before.
    """
    moved = []
    for bucket in made.buckets:
        shares = np.arange(bucket.kept) / bucket.kept
        scores = bucket.scores + _MARGIN_BITS * np.clip((shares - 0.9) / 0.05, 0.0, 1.0)
        tail = bucket.tail and replace(bucket.tail, start=bucket.tail.start + _MARGIN_BITS)
        moved.append(replace(bucket, scores=scores, tail=tail))
    return replace(made, buckets=tuple(moved))
