"""What reads a line in addition to the network: n-grams of characters, and templates of lines.

A network trained for a minute or on little text finds fewer anomalies than n-grams or templates do; a well
trained one finds more, but not all of them. So all of them read each line, and the calibration weights them
(`nextchar.models.anomaly.calibration`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.templates import ParsedLine, Templates
from nextchar.models.text.vocabulary import Vocabulary


def with_ngram_and_templates(
    surprisals: Sequence[LineSurprisal],
    lines: Sequence[str],
    ngram: NgramModel | None,
    templates: Templates | None,
    vocabulary: Vocabulary | None = None,
) -> list[LineSurprisal]:
    """Return the surprisal of masked lines with the figures of n-grams and templates, if there are any.

    `vocabulary`: see `with_templates`.
    """
    result = list(surprisals)
    if ngram:
        result = with_ngram(result, lines, ngram)
    if templates:
        result = with_templates(result, lines, templates, vocabulary)
    return result


def with_ngram(
    surprisals: Sequence[LineSurprisal], lines: Sequence[str], model: NgramModel
) -> list[LineSurprisal]:
    """Return the surprisal of lines with `ngram_bits`, each line read after a newline."""
    texts = [line + "\n" if s.has_end else line for s, line in zip(surprisals, lines, strict=True)]
    bits = model.surprisals(texts)
    return [replace(s, ngram_bits=bits[i].astype(np.float32)) for i, s in enumerate(surprisals)]


def with_templates(
    surprisals: Sequence[LineSurprisal],
    lines: Sequence[str],
    templates: Templates,
    vocabulary: Vocabulary | None = None,
) -> list[LineSurprisal]:
    """Return the surprisal of masked lines with `parsed`, their templates.

    `vocabulary` is the model's, if the lines may have characters that it lacks. The templates were learned
    with U+FFFD for those, so a line is compared with them likewise. A new template has the line's characters.
    """
    parsed = {line: _parse(line, templates, vocabulary) for line in set(lines)}
    return [replace(s, parsed=parsed[line]) for s, line in zip(surprisals, lines, strict=True)]


def _parse(line: str, templates: Templates, vocabulary: Vocabulary | None) -> ParsedLine:
    read = vocabulary.replace_unknown(line) if vocabulary else line
    parsed = templates.parse(read)
    return templates.parse(line) if parsed.template.is_new and read != line else parsed
