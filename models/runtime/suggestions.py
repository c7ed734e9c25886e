"""Suggestions: different completions of a field, best first, of which the known lines of a corpus are found.

`Suggester.suggest` is a generator of the completions that it needs, so that the service can wait for them on
its event loop and `nextchar.local` in its thread. What it does depends on `constrain`:

    lines    lines of the corpus that the prefix may stand for; nothing if there are none
    prefer   both, ranked by their probability if one of the lines is meant, and if any text is
    none     completions that the model generates

The probability of lines is a mixture of two shares among the candidates, by their counts and by the network;
the weight of the network is stored with the lines, and is less where counts were added to them. Generated
completions end with the line if the model is of records, else with the word.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.corrections import MAX_TYPED
from nextchar.models.runtime.line_index import Candidate, LineIndex, default_typos
from nextchar.models.runtime.requests import ANYONE, Caller, Completion, CompletionRequest
from nextchar.models.text.line_file import fold
from nextchar.models.text.masks import ModelMasks, compile_pattern
from nextchar.models.text.vocabulary import Vocabulary

Constrain = Literal["lines", "prefer", "none"]
Floats = NDArray[np.float64]

MAX_LIMIT = 50
MAX_PREFIX_CHARACTERS = 1_000
MAX_EXCLUDED = 1_000
MAX_PATTERNS = 16

MIN_WEIGHT = 0.01
"""With less weight the network is not asked: the counts decide."""

WEIGHED = 32
"""Candidates that the network is asked about."""

MAX_CONTINUATION = 16
"""Characters that the network reads of a candidate: those after them hardly change the order."""

_KNOWN = 0.5  # probability that a line of the corpus is meant, if some begin with the prefix
_KNOWN_LINE = 3.0  # times likelier than the model finds it is a text that is a line of the corpus
_MORE = 6  # hypotheses of a beam search, beyond those that are wanted
_MAX_BEAM = 64
_RESPELLED = 4  # prefixes with an unknown word that lines spell otherwise
_MAX_GENERATED = 64  # characters
_TAB = "\t"
_LINE_ENDS = ("\n", "\r")  # which no suggestion crosses


@dataclass(frozen=True, kw_only=True)
class SuggestionRequest:
    """What to suggest. `prefix` and `context` are text as it was typed; lengths are in code points."""

    prefix: str
    limit: int = 10
    constrain: Constrain | None = None  # None: lines if the model has some, else none
    typos: int | None = None  # None: by the length of the prefix
    context: str | None = None
    exclude: Sequence[str] = ()
    exclude_patterns: Sequence[str] = ()

    @property
    def max_typos(self) -> int:
        """How many typing errors the prefix may have."""
        return default_typos(self.prefix.lstrip()) if self.typos is None else self.typos


@dataclass(frozen=True)
class Replaced:
    """The range of the prefix that a suggestion changes, in code points."""

    start: int
    end: int


@dataclass(frozen=True)
class Suggestion:
    """A whole field.

    Attributes:
        text: of the field, prefix included.
        probability: estimated, of all that could follow the prefix.
        count: how often it is in the corpus.
        exists: whether it is in the corpus.
        replaced: what of the prefix was taken for a typing error; None: nothing.
    """

    text: str
    probability: float
    count: int
    exists: bool
    replaced: Replaced | None = None


Steps = Generator[CompletionRequest, Sequence[Completion], list[Suggestion]]
"""Yields a request at most once, and is sent its completions."""


class LineEngine(Protocol):
    """What is asked of an `Engine` about lines; it answers in the calling thread."""

    def weigh_lines(self, prompt: str, continuations: Sequence[str], *, caller: Caller) -> list[float]:
        """Return the bits of continuations of a prompt."""


def no_lines(reference: str, instead: str, *, param: str) -> InvalidInput:
    """Return the error for a model without lines (code `no_lines`)."""
    return InvalidInput(
        f"{reference} has no lines to choose from: it is not of records, or was trained by an older version."
        f' Train it again with "kind": "records", or {instead}',
        code="no_lines",
        param=param,
    )


class Exclusion:
    """Which texts a request does not want: by their letters, or by RE2 patterns."""

    def __init__(self, texts: Sequence[str], patterns: Sequence[str]) -> None:
        """Raise InvalidInput if a pattern is no RE2 expression."""
        self._folded = set(map(fold, texts))
        self._patterns = [
            compile_pattern(pattern, code="invalid_pattern", param="exclude_patterns") for pattern in patterns
        ]

    def __contains__(self, text: str) -> bool:
        is_named = bool(self._folded) and fold(text) in self._folded
        return is_named or any(pattern.search(text) for pattern in self._patterns)


@dataclass(frozen=True)
class Suggester:
    """What makes suggestions with a model.

    Attributes:
        vocabulary: of the model.
        masks: of its texts.
        lines: of its corpus, if it has some.
        is_records: whether it is of records.
        reference: its name in messages.
    """

    vocabulary: Vocabulary
    masks: ModelMasks
    lines: LineIndex | None
    is_records: bool
    reference: str

    def suggest(self, request: SuggestionRequest, engine: LineEngine, caller: Caller = ANYONE) -> Steps:
        """Return the suggestions for a request, best first, by an engine of this model.

        Raises:
            InvalidInput: a pattern is invalid (code `invalid_pattern`), or the model has no lines
                (`no_lines`).
        """
        excluded = Exclusion(request.exclude, request.exclude_patterns)
        constrain = request.constrain or ("lines" if self.lines else "none")
        if constrain == "lines" and self.lines is None:
            raise no_lines(self.reference, 'use "constrain": "none"', param="constrain")
        found: list[Suggestion] = []
        generated: list[Suggestion] = []
        known = 0.0
        if self.lines and constrain != "none":

            def bits_of(texts: Sequence[str]) -> list[float]:
                prompt, continuations = continuations_of([*map(self.vocabulary.to_characters, texts)])
                return engine.weigh_lines(prompt, continuations, caller=caller)

            found, known = _of_lines(request, self.lines, excluded, bits_of)
        if constrain != "lines":
            generated = yield from self._generated(request, excluded, caller)
        return _ranked(request.prefix, found, generated, known)[: request.limit]

    def _generated(self, request: SuggestionRequest, excluded: Exclusion, caller: Caller) -> Steps:
        """Return the likeliest completions by beam search, to the end of the line or of the word."""
        prompt = f"{request.context}{_TAB}{request.prefix}" if request.context else request.prefix
        characters = self.vocabulary.to_characters(prompt)
        masked = self.masks.mask_lines(characters)
        typed = ""
        if request.max_typos and masked == characters:  # else there is no place in the prefix for an error
            typed = self.vocabulary.to_characters(request.prefix)[-MAX_TYPED:].rpartition("\n")[2]
        n = min(_MAX_BEAM, request.limit + _MORE)
        completions = yield CompletionRequest(
            prompt=masked,
            n=n,
            beam=n,
            typed=len(typed),
            respelled=tuple(self.lines.respelled(typed, _RESPELLED)) if self.lines else (),
            length_penalty=0.0,
            until="line" if self.is_records else "word",
            stop=() if self.is_records else tuple(map(self.vocabulary.to_characters, _LINE_ENDS)),
            max_characters=_MAX_GENERATED,
            stream=False,
            caller=caller,
        )
        merged = [one for one in _merged(completions) if one.text or not typed]
        suggestions = [
            self._suggestion(request.prefix, typed, one.text, 2.0 ** -(one.bits + one.ending_bits))
            for one in merged
        ]
        is_new = [one for one in suggestions if one.text.strip() != request.prefix.strip()]
        return _reweighted(list(_checked(is_new, self.lines, excluded)))

    def _suggestion(self, prefix: str, typed: str, text: str, probability: float) -> Suggestion:
        """Return a generated text, which begins with the typed end of the prefix, or what is meant by it."""
        if text.startswith(typed):
            whole = prefix + self.vocabulary.to_text(text[len(typed) :])
            return Suggestion(whole, probability, 0, exists=False)
        before = self.vocabulary.to_characters(prefix).removesuffix(typed)
        whole = self.vocabulary.to_text(before + text)
        folded, n = fold(whole), len(fold(prefix))
        ranges = [
            _replaced(prefix, folded[:end]) for end in (n, n - 1, n + 1)
        ]  # an error may change the length
        replaced = min(ranges, key=lambda one: one.end - one.start)
        return Suggestion(whole, probability, 0, exists=False, replaced=replaced)


def _ranked(
    prefix: str, found: Sequence[Suggestion], generated: Sequence[Suggestion], known: float
) -> list[Suggestion]:
    """Return lines that exist and generated texts, each once, by their probability.

    `known` is the probability that one of the lines is meant if there are generated texts. What does not
    begin with the prefix comes after all lines that do. Of equal ones, those that others begin with are
    first, as `isabella` before `isabellah`; accepting a longer one saves more keys.
    """
    ranked = {fold(one.text): one for one in found}
    lines = list(ranked)
    if generated:
        ranked = {key: replace(one, probability=known * one.probability) for key, one in ranked.items()}
    for one in generated:
        key, probability = fold(one.text), (1 - known) * one.probability
        same = ranked.get(key)
        probability += same.probability if same else 0.0
        ranked[key] = replace(same or one, probability=probability)
    typed = fold(prefix.lstrip())
    begins = {key for key in ranked if key.lstrip().startswith(typed)}
    # of what does not begin with the prefix
    ceiling = min((ranked[key].probability for key in lines if key in begins), default=1.0)

    stems = {one for one, after in itertools.pairwise(sorted(ranked)) if after.startswith(one)} - {typed}

    def rank(key: str) -> tuple[float, bool, float, bool, int]:
        probability, is_other = ranked[key].probability, key not in begins
        first = min(probability, ceiling) if is_other else probability
        return -first, is_other, -probability, key not in stems, -len(key)

    return [ranked[key] for key in sorted(ranked, key=rank)]


def _of_lines(
    request: SuggestionRequest,
    lines: LineIndex,
    excluded: Exclusion,
    bits_of: Callable[[Sequence[str]], list[float]],
) -> tuple[list[Suggestion], float]:
    """Return the lines that the prefix may stand for, and the probability that one of them is meant.

    `bits_of` returns the bits of texts by the network, but for those of what they have in common.
    """
    context = f"{request.context}{_TAB}" if request.context else ""
    candidates, coverage = _candidates(request, lines, context, excluded)
    if not candidates and context:  # no line has this context
        context = ""
        candidates, coverage = _candidates(request, lines, context, excluded)
    shares = _shares([1.0 + c.count for c in candidates], candidates)
    if lines.weight >= MIN_WEIGHT and len(candidates) > 1:
        texts = [candidate.text for candidate in candidates[:WEIGHED]]
        if request.context and not context:
            texts = [f"{request.context}{_TAB}{text}" for text in texts]
        bits = np.array(bits_of(texts))
        # Those that the network is not asked about have none of its share.
        by_network = np.append(np.exp2(bits.min() - bits), np.zeros(len(candidates) - len(texts)))
        weight = lines.weight_among(candidates)
        shares = (1 - weight) * shares + weight * _shares(by_network, candidates)
    suggestions = [
        Suggestion(
            text=_after(context, one.text),
            probability=probability,
            count=one.count,
            exists=True,
            replaced=_replaced(request.prefix, _after(context, one.meant)) if one.errors else None,
        )
        for one, probability in zip(candidates, (shares * coverage).tolist(), strict=True)
    ]
    return suggestions, _KNOWN * 2.0 ** -min((one.penalty_bits for one in candidates), default=math.inf)


def _candidates(
    request: SuggestionRequest, lines: LineIndex, context: str, excluded: Exclusion
) -> tuple[list[Candidate], float]:
    """Return the candidates that are not excluded, each folded text once, and their coverage."""
    prefix, typos = request.prefix.lstrip(), request.max_typos
    most, wanted = max(WEIGHED, 2 * request.limit), request.limit
    while True:
        found = lines.search(prefix, context=context, typos=typos, wanted=wanted, most=most)
        kept: dict[str, Candidate] = {}
        for candidate in found.candidates:
            if candidate.folded not in kept and _after(context, candidate.text) not in excluded:
                kept[candidate.folded] = candidate
        if len(kept) >= request.limit or len(found.candidates) < most or most >= 1024:
            return list(kept.values()), found.coverage
        most, wanted = 4 * most, 4 * wanted


def _shares(weights: Sequence[float] | Floats, candidates: Sequence[Candidate]) -> Floats:
    """Return the share of each candidate, by its weight and how it matches."""
    penalties = np.array([candidate.penalty_bits for candidate in candidates])
    scaled: Floats = np.asarray(weights, np.float64) * np.exp2(-penalties)
    total = scaled.sum()
    return scaled / total if total else scaled


def continuations_of(texts: Sequence[str]) -> tuple[str, list[str]]:
    """Return what texts have in common, and how each goes on, for at most MAX_CONTINUATION characters."""
    first, last = min(texts), max(texts)
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:common], [(text[common:] + "\n")[:MAX_CONTINUATION] for text in texts]


def _after(context: str, text: str) -> str:
    """Return what follows a context, which a line may spell otherwise: `Straße` for `STRASSE`."""
    return text.split(_TAB, context.count(_TAB))[-1]


def _replaced(prefix: str, meant: str) -> Replaced:
    """Return the range of the prefix that differs from the folded characters that are meant.

    Where a character was left out, it is that of the next one, or at the end of the one before.

    >>> _replaced("Berln", "berli")
    Replaced(start=4, end=5)
    """
    typed = list(map(fold, prefix))
    first = 0
    while first < len(typed) and meant.startswith(typed[first]):
        meant = meant.removeprefix(typed[first])
        first += 1
    last = len(typed)
    while last > first and meant.endswith(typed[last - 1]):
        meant = meant.removesuffix(typed[last - 1])
        last -= 1
    if first == last:
        last = min(first + 1, len(typed))
    return Replaced(min(first, last - 1), last)


def _merged(completions: Sequence[Completion]) -> Iterator[Completion]:
    """Yield completions, likeliest first, without those that are unfinished and the beginning of another."""
    texts = [one.text for one in completions if one.reason != "length"]
    for one in completions:
        is_part = one.reason == "length" and any(text.startswith(one.text) for text in texts)
        if not is_part:
            yield one


def _checked(
    suggestions: Sequence[Suggestion], lines: LineIndex | None, excluded: Exclusion
) -> Iterator[Suggestion]:
    """Yield the suggestions that may be shown, each folded text once, and say which are in the corpus."""
    seen: set[str] = set()
    for one in suggestions:
        key = fold(one.text)
        is_hidden = lines is not None and lines.is_hidden(one.text)
        if not key.strip() or key in seen or one.text in excluded or is_hidden:
            continue
        seen.add(key)
        count = lines.count_of(one.text) if lines else None
        yield one if count is None else replace(one, count=count, exists=True)


def _reweighted(suggestions: Sequence[Suggestion]) -> list[Suggestion]:
    """Return generated texts, of which those that are lines have _KNOWN_LINE times as large a part of all."""
    total = 1 + (_KNOWN_LINE - 1) * sum(one.probability for one in suggestions if one.exists)
    return [
        replace(one, probability=one.probability * (_KNOWN_LINE if one.exists else 1) / total)
        for one in suggestions
    ]
