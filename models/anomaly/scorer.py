"""A model's scorer: reads lines as the model was trained to read them, and explains anomalous ones.

It composes what a saved model has for this: masks, the network's surprisal (`nextchar.models.runtime`), the
n-grams and templates, and explanations. Scores are made from its results by a `Calibration`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nextchar.models.anomaly.noisy_channel import explain
from nextchar.models.anomaly.spans import Span
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.session import Check, CheckedNetwork, State, no_check
from nextchar.models.runtime.surprisal import LineSurprisal, higher
from nextchar.models.saved_model import SavedModel
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text import successors as successors_file
from nextchar.models.text import templates as templates_file
from nextchar.models.text import word_ngram as word_ngram_file
from nextchar.models.text.events import Opener, events_of
from nextchar.models.text.masks import Masked, ModelMasks
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.successors import Successors
from nextchar.models.text.templates import ParsedLine, Templates
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.models.text.word_ngram import WordNgrams

ReadPrecision = Literal["float32", "fast", "both"]
"""`fast`: int8 if the model has it. `both`: of each character the higher figure of the two."""


@dataclass(frozen=True)
class LineReading:
    """A line that was read: its characters, the same after masking, and the surprisal of those."""

    original: str
    masked: Masked
    surprisal: LineSurprisal


class Scorer:
    """Reads lines of characters (after NFC, or bytes for a model of bytes). Blocking and thread-safe.

    What is called a line is an event (`nextchar.models.text.events`): one of several lines has newlines.

    `check` is called before each step of the network; what it raises ends the work.
    """

    def __init__(
        self,
        engine: Engine,
        masks: ModelMasks,
        ngram: NgramModel | None = None,
        templates: Templates | None = None,
        words: WordNgrams | None = None,
        successors: Successors | None = None,
    ) -> None:
        self.engine, self._masks, self._ngram, self._words = engine, masks, ngram, words
        self.templates, self._successors = templates, successors

    @property
    def opener(self) -> Opener | None:
        """What opens an event; None: each line is one."""
        return self.templates.opener if self.templates else None

    def events(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the events of lines that come one after the other."""
        return events_of(self.opener, lines)

    @classmethod
    def load(cls, saved: SavedModel, engine: Engine, masks: ModelMasks) -> "Scorer":
        """Return the scorer of a saved model. Raises Unavailable: a file is damaged."""
        ngram = templates = words = successors = None
        if ngram_file.FILE in saved.card.files:
            ngram = ngram_file.load(saved.file(ngram_file.FILE), saved.vocabulary)
        if templates_file.FILE in saved.card.files:
            templates = templates_file.load(saved.file(templates_file.FILE))
        if word_ngram_file.FILE in saved.card.files:
            words = word_ngram_file.load(saved.file(word_ngram_file.FILE))
        if successors_file.FILE in saved.card.files:
            successors = Successors.load(saved.file(successors_file.FILE))
        return cls(engine, masks, ngram, templates, words, successors)

    def read(
        self, originals: Sequence[str], *, precision: ReadPrecision = "float32", check: Check = no_check
    ) -> list[LineReading]:
        """Mask and read lines, each by itself, with its newline."""
        masked = list(map(self._masks.mask, originals))
        texts = [line.text for line in masked]
        surprisals = self.engine.line_surprisal(texts, fast=precision != "float32", check=check)
        if precision == "both" and self.engine.has_fast:
            surprisals = higher(surprisals, self.engine.line_surprisal(texts, check=check))
        return self._scored(originals, masked, surprisals)

    def read_stream(
        self, originals: Sequence[str], state: State | None, *, fast: bool = False, check: Check = no_check
    ) -> tuple[list[LineReading], State]:
        """Mask and read lines one after the other; see `models.runtime.surprisal.stream_surprisal`."""
        masked = list(map(self._masks.mask, originals))
        texts = [line.text for line in masked]
        surprisals, state = self.engine.stream_surprisal(texts, state, fast=fast, check=check)
        return self._scored(originals, masked, surprisals), state

    def explain(
        self, texts: Sequence[str], *, threshold: float, max_read: int, check: Check = no_check
    ) -> list[list[Span] | None]:
        """Return the anomalous spans of masked lines, in float32; see `noisy_channel.explain`."""
        network = CheckedNetwork(self.engine.network, check)
        return explain(network, self.engine.vocabulary, texts, threshold=threshold, max_read=max_read)

    def _scored(
        self, originals: Sequence[str], masked: Sequence[Masked], surprisals: Sequence[LineSurprisal]
    ) -> list[LineReading]:
        texts = [line.text for line in masked]
        surprisals = with_ngram_and_templates(
            surprisals, texts, self._ngram, self.templates, self.engine.vocabulary, words=self._words
        )
        if self._successors:
            found = map(self._successors.find, masked, originals)
            surprisals = [replace(s, breaks=own) for s, own in zip(surprisals, found, strict=True)]
        return [LineReading(*line) for line in zip(originals, masked, surprisals, strict=True)]


def with_ngram_and_templates(
    surprisals: Sequence[LineSurprisal],
    lines: Sequence[str],
    ngram: NgramModel | None,
    templates: Templates | None,
    vocabulary: Vocabulary | None = None,
    *,
    words: WordNgrams | None = None,
) -> list[LineSurprisal]:
    """Return the surprisal of masked lines with the figures of n-grams and templates, if there are any.

    `vocabulary`: see `with_templates`.
    """
    result = list(surprisals)
    if ngram:
        result = with_ngram(result, lines, ngram)
    if templates:
        result = with_templates(result, lines, templates, vocabulary)
    if words:
        read = words.read(lines)
        result = [replace(s, words=line) for s, line in zip(result, read, strict=True)]
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
