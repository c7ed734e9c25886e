"""Makes the index of the lines of a corpus of records, from which suggestions are chosen."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.config import SuggestionConfig
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.session import Check, StepNetwork, no_check
from nextchar.models.runtime.suggestions import WEIGHED, continuations_of
from nextchar.models.runtime.surprisal import line_surprisal
from nextchar.models.text import line_file
from nextchar.models.text.line_columns import Record
from nextchar.models.text.line_file import Lines, fold
from nextchar.models.text.masks import compile_pattern
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus
from nextchar.store.jobs import JobRequest
from nextchar.worker.job_text import columns_of
from nextchar.worker.memorization import Withheld
from nextchar.worker.prepared_text import Text

_MAX_LINE_CHARACTERS = 1_000  # a longer line is no suggestion
_CHECKED = 10_000  # lines between two checks
_WEIGHED_LINES = 150  # held-out lines on which the weight is learned
_MIN_WEIGHED_LINES = 30
_WEIGHED_CHARACTERS = 200_000  # of the held-out text
_ROUNDS = 50
_DEFAULT_WEIGHT = 0.5  # until it is learned


def distinct_lines(
    request: JobRequest,
    corpora: Corpora,
    corpus: Corpus,
    *,
    on_event: Callable[[str, dict[str, Any]], None],
    check: Check = no_check,
) -> tuple[Lines | None, list[str]]:
    """Return the distinct lines of a corpus of records, held-out lines included; None if there are none.

    With them those that are withheld because they are too rare. The weight of the network is 0 if counts are
    given, which then rank alone; else the default.
    """
    if request.kind != "records" or corpus.encoding != "utf-8":
        return None, []
    records = columns_of(request).records(corpora.pieces(corpus.id, "characters"))
    counted = Counted.of(records, request.suggestions or SuggestionConfig(), check=check)
    if counted is None:
        sentence = (
            f"the corpus has more than {line_file.MAX_LINES:,} distinct lines, or these more than"
            f" {line_file.MAX_CHARACTERS:,} characters, so suggestions are generated instead of chosen from"
            " them; train on fewer lines for suggestions of lines"
        )
        on_event("message", {"text": sentence})
        return None, []
    lines = counted.lines()
    weight = 0.0 if counted.are_given else _DEFAULT_WEIGHT
    return lines and lines.with_weight(weight), counted.rare_lines()


def line_files(lines: Lines | None, network: StepNetwork, text: Text) -> dict[str, bytes]:
    """Return the file of the lines of records; {} if there are none.

    The weight of `network` is learned on the held-out part of `text`.
    """
    if lines is None:
        return {}
    if lines.weight[0]:
        lines = lines.with_weight(learned_weight(LineIndex(lines), network, text))
    return {line_file.FILE: lines.dump()}


def withheld_lines(lines: Lines | None, rare: list[str], vocabulary: Vocabulary) -> Withheld | None:
    """Return what the memorization of rare lines is measured with; None if there are none."""
    if lines is None or not rare:
        return None
    return Withheld(list(map(vocabulary.to_characters, rare)), LineIndex(lines).is_hidden)


class Counted:
    """The distinct lines of a corpus: how often each occurs, and from how many sources."""

    def __init__(self, config: SuggestionConfig) -> None:
        self._config = config
        self._counts: Counter[str] = Counter()
        self._characters = 0  # of the distinct lines
        self._sources: defaultdict[str, set[str]] = defaultdict(set)  # as many as are required
        self.are_given = False
        """Whether counts other than one come from a column: they say how popular a line is."""

    @classmethod
    def of(
        cls, records: Iterable[Record], config: SuggestionConfig, *, check: Check = no_check
    ) -> "Counted | None":
        """Count the lines; return None if there are too many distinct ones."""
        counted = cls(config)
        for number, record in enumerate(records):
            if number % _CHECKED == 0:
                check()
            counted._add(record)
            if counted._is_too_large():
                return None
        return counted

    def _add(self, record: Record) -> None:
        if len(record.text) > _MAX_LINE_CHARACTERS:
            return
        self._characters += 0 if record.text in self._counts else len(record.text)
        self._counts[record.text] += record.count
        self.are_given |= record.count != 1
        if record.source is not None and self._config.minimum_sources > 1:
            sources = self._sources[record.text]
            if len(sources) < self._config.minimum_sources:
                sources.add(record.source)

    def _is_too_large(self) -> bool:
        return len(self._counts) > line_file.MAX_LINES or self._characters > line_file.MAX_CHARACTERS

    def lines(self) -> Lines | None:
        """Return the index of the lines that may be suggested, if there are any."""
        config = self._config
        patterns = [
            compile_pattern(pattern, code="invalid_pattern", param="suggestions.exclude_patterns")
            for pattern in config.exclude_patterns
        ]
        withheld = {*config.exclude, *self._too_rare()}
        kept = {
            line: count
            for line, count in self._counts.items()
            if not any(pattern.search(line) for pattern in patterns)
        }
        return Lines.make(kept, withheld=withheld, patterns=config.exclude_patterns)

    def rare_lines(self) -> list[str]:
        """Return the lines that are withheld because they occur too seldom, as they stand in the corpus."""
        rare = self._too_rare()
        return [line for line in self._counts if fold(line) in rare]

    def _too_rare(self) -> set[str]:
        """Return the lines that occur too seldom, all forms of a line together."""
        config = self._config
        if config.minimum_count <= 1 and config.minimum_sources <= 1:
            return set()
        counts: Counter[str] = Counter()
        sources: defaultdict[str, set[str]] = defaultdict(set)
        for line, count in self._counts.items():
            counts[fold(line)] += count
            sources[fold(line)] |= self._sources.get(line, set())
        return {
            line
            for line, count in counts.items()
            if count < config.minimum_count
            or (config.minimum_sources > 1 and len(sources[line]) < config.minimum_sources)
        }


def learned_weight(index: LineIndex, network: StepNetwork, text: Text) -> float:
    """Return the weight of the network in a mixture with the counts that predicts held-out lines best.

    After a beginning of each that also occurs elsewhere, counts and network have their shares among the lines
    with this beginning, as if it had been counted once less. The weight is learned by expectation
    maximization, which needs no step size. It is 0 if it does not predict better than the counts alone by
    twice the standard error, or there are too few, or the lines are lists put together: where each line
    occurs once in a list, no order is better.
    """
    if _are_lists(index.lines.counts):
        return 0.0
    held_out = text.vocabulary.decode(text.validation[:_WEIGHED_CHARACTERS]).split("\n")
    repeated = [line for line in dict.fromkeys(held_out) if line and (index.count_of(line) or 0) > 1]
    if len(repeated) < _MIN_WEIGHED_LINES:
        return 0.0
    rng = random.Random(0)
    shares = []
    for line in repeated[:_WEIGHED_LINES]:
        prefix = line[: rng.randint(1, len(line))]
        candidates = index.search(prefix, typos=0, wanted=1, most=WEIGHED).candidates
        own = np.array([fold(candidate.text) == fold(line) for candidate in candidates])
        if len(candidates) > 1 and own.any():
            by_count = 1.0 + np.array([candidate.count for candidate in candidates]) - own
            by_network = _likelihoods([candidate.text for candidate in candidates], network, text.vocabulary)
            shares.append([float(by[own].sum() / by.sum()) for by in (by_network, by_count)])
    if not shares:
        return 0.0
    network_shares, count_shares = np.array(shares).T
    weight = _DEFAULT_WEIGHT
    for _ in range(_ROUNDS):
        mixed = weight * network_shares + (1 - weight) * count_shares
        weight = float(np.mean(weight * network_shares / mixed))
    gains = np.log(mixed / count_shares)
    return weight if gains.mean() > 2 * gains.std() / len(gains) ** 0.5 else 0.0


def _are_lists(counts: NDArray[np.uint32]) -> bool:
    """Return whether lines repeat because lists were put together, not because they were chosen again.

    Of lines that are drawn at random, each with a frequency of its own, n1, n2 and n3 occur once, twice and
    three times, and on average (2 n2)^2 is at most n1 * 6 n3, by the inequality of Cauchy and Schwarz. In two
    lists no line occurs three times.
    """
    n1, n2, n3 = np.bincount(np.minimum(counts, 4), minlength=5)[1:4].tolist()
    least = (2 * n2) ** 2 / (6 * max(1, n1))
    return bool(n3 < least - 3 * least**0.5)


def _likelihoods(texts: list[str], network: StepNetwork, vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Return how likely each text is by the network, relative to the likeliest, as suggestions weigh it."""
    prompt, continuations = continuations_of([vocabulary.to_characters(text) for text in texts])
    read = line_surprisal(network, vocabulary, continuations, context="\n" + prompt)
    bits = np.array([one.bits.sum() for one in read], np.float64)
    return np.exp2(bits.min() - bits)
