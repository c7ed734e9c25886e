"""Makes the index of the lines of a corpus of records, from which suggestions are chosen."""

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

from nextchar.models.runtime.session import Check, no_check
from nextchar.models.text import line_file
from nextchar.models.text.line_file import Lines
from nextchar.models.text.lines import whole_lines
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus
from nextchar.store.jobs import JobRequest

_MAX_LINE_CHARACTERS = 1_000  # a longer line is no suggestion


def line_files(
    request: JobRequest,
    corpora: Corpora,
    corpus: Corpus,
    *,
    on_event: Callable[[str, dict[str, Any]], None],
    check: Check = no_check,
) -> dict[str, bytes]:
    """Return the file of the distinct lines of a corpus of records, held-out lines included; {} if none."""
    if request.kind != "records" or corpus.encoding != "utf-8":
        return {}
    counts = _counted(corpora, corpus, check)
    if len(counts) > line_file.MAX_LINES:
        text = f"more than {line_file.MAX_LINES:,} distinct lines: suggestions are not limited to these lines"
        on_event("message", {"text": text})
        return {}
    lines = Lines.make(counts)
    return {line_file.FILE: lines.dump()} if lines else {}


def _counted(corpora: Corpora, corpus: Corpus, check: Check) -> Counter[str]:
    counts: Counter[str] = Counter()
    pieces = chain(corpora.pieces(corpus.id, "characters"), ("\n",))
    for piece in whole_lines(pieces, max_held=1 << 26):
        check()
        lines = map(str.strip, piece.split("\n"))
        counts.update(line for line in lines if line and len(line) <= _MAX_LINE_CHARACTERS)
        if len(counts) > line_file.MAX_LINES:
            break
    return counts
