"""The surprisal of lines by a model's n-grams, which read each line in addition to the network.

A network trained for a minute or on little text finds fewer anomalies than n-grams do; a well trained one
finds more, but not all of them. So both read each line, and the calibration weights them
(`models.anomaly.calibration`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.runtime.surprisal import LineSurprisal
from models.text.ngram import NgramModel


def with_ngram(
    surprisals: Sequence[LineSurprisal], lines: Sequence[str], model: NgramModel
) -> list[LineSurprisal]:
    """Return the surprisal of lines with `ngram_bits`, each line read after a newline."""
    texts = [line + "\n" if s.has_end else line for s, line in zip(surprisals, lines, strict=True)]
    bits = model.surprisals(texts)
    return [replace(s, ngram_bits=b.astype(np.float32)) for s, b in zip(surprisals, bits, strict=True)]
