"""Learns what a mixture knows about a text beside its counts: tree, maps and weights, by reading it once.

While it reads, the mixture knows what is older than its history, as a model knows its training text. The
network's weights are learned afterwards, on held-out text that the network was not trained on.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.compile_cache import WEIGHTS_KERNELS, compile_kernels
from nextchar.models.kernels.mixture_arguments import (
    ADAPTATION,
    BACKOFF_SHARE,
    BRACKET_KIND,
    BUCKETS,
    BY_BACKOFF,
    BY_MATCH,
    BY_NETWORK,
    CERTAIN_STATES,
    CLOSING,
    CONSTANT,
    CONTEXTS,
    COUNT_STEPS,
    DELIMITER,
    DIFFERENT_STEPS,
    DIGIT,
    FOLDED,
    INPUTS,
    KIND,
    LAST_ROWS,
    LEARNED_SHARES,
    LETTER,
    LINE_END,
    LOWER,
    MAP_STATES,
    MATCH_STATES,
    MATCHES,
    MAX_ADAPTED_VOCABULARY,
    OPENING,
    PLACE_STEPS,
    QUOTE,
    RECENT,
    RECENT_STATES,
    RECORD_END,
    SEPARATOR,
    SETS,
    SHARE_STATES,
    SIGN,
    SPACE,
    STATE_COLUMNS,
    UPPER,
    WEIGHT_ROWS,
    Experts,
)
from nextchar.models.runtime.mixture import Floats, Learned, experts_of
from nextchar.models.text.ngram import Ids
from nextchar.models.text.symbol_tree import symbol_tree
from nextchar.models.text.vocabulary import Vocabulary

LEARNED_CHARACTERS = 200_000
"""What is learned from by default, at the end of a text; a quarter of it with a large vocabulary, where each
takes longer. The rest is only counted."""

_STEPS = (DIFFERENT_STEPS, COUNT_STEPS, PLACE_STEPS)
_TREE_CHARACTERS = 1_000_000
_DELIMITERS = ("\t", ",", ";", "|")  # of the cells of tables
_MIN_TABLE_LINES = 10
_TABLE_SHARE = 0.9  # of lines that have as many cells as most
_BRACKET_KINDS = (
    dict.fromkeys("([{", OPENING) | dict.fromkeys(")]}", CLOSING) | dict.fromkeys(",;", SEPARATOR)
)
_ADAPTATION = (1000, 1000, 20)
"""One choice for all texts, made on three of them. Records, which stand alone, are too short to adapt to."""


class Seen(NamedTuple):
    """How often each map and each set of weights has learned; float32."""

    maps: Floats
    recent_maps: Floats
    match_maps: Floats
    weights: Floats
    last_weights: Floats
    backoffs: Floats

    @classmethod
    def never(cls) -> "Seen":
        """Return the counts before learning; the first values of maps count as some observations."""
        return cls(
            np.full((CONTEXTS, MAP_STATES), 4, np.float32),
            np.full((RECENT, RECENT_STATES), 4, np.float32),
            np.full(MATCH_STATES, 2, np.float32),
            np.zeros(WEIGHT_ROWS, np.float32),
            np.zeros(1, np.float32),
            np.full((LEARNED_SHARES, SHARE_STATES), 20, np.float32),
        )


def learn_text(
    text: Ids, vocabulary: Vocabulary, *, is_records: bool = False, characters: int = LEARNED_CHARACTERS
) -> tuple[Learned, Seen]:
    """Return what a mixture learns from the last `characters` of a text (N,), without a network."""
    compile_kernels(WEIGHTS_KERNELS)  # waits if another process is compiling
    from nextchar.models.kernels.mixture_training import learn

    kept = np.ascontiguousarray(text, np.int32)
    table = characters_of(kept, vocabulary, is_records=is_records)
    learned, seen = (beginning(table, symbol_tree(kept[-_TREE_CHARACTERS:], table[:, KIND])), Seen.never())
    experts = experts_of(kept, learned, is_counted=False)
    state, no_logits = np.zeros((1, STATE_COLUMNS), np.float32), np.zeros((0, 0), np.float32)
    is_small = len(vocabulary) <= MAX_ADAPTED_VOCABULARY
    start = max(0, len(kept) - (characters if is_small else characters // 4))
    learn(*experts, *seen, kept, state.copy(), state, no_logits, start)
    learned = learned_by(experts)
    if not is_records and is_small:
        learned = learned._replace(adaptation=np.array(_ADAPTATION, np.float32))
    return learned, seen


def learned_by(experts: Experts) -> Learned:
    """Return what some experts have learned."""
    learned = Learned(*(getattr(experts, name) for name in Learned._fields))
    return learned._replace(weights=_rounded(learned.weights))


def _rounded(weights: Floats) -> Floats:
    """Return weights with 5 significant bits each, which predict as well, in files of half the size."""
    bits = weights.view(np.uint32) + np.uint32(1 << 18)
    return (bits & np.uint32(0xFFF80000)).view(np.float32)


def beginning(characters: NDArray[np.int32], children: NDArray[np.int32]) -> Learned:
    """Return maps and weights of any text."""
    state = np.arange(MAP_STATES)
    ratio = np.where(state < CERTAIN_STATES, state % 16, 15 * (state % 2))
    maps = np.tile(((ratio - 7.5) / 1.3).astype(np.float32), (CONTEXTS, 1))
    maps[:, 0] = 0
    state = np.arange(RECENT_STATES) // 2
    recent = np.log((state % 7 + 0.4) / (state // 7 + 0.4)).astype(np.float32)
    matches = np.full(MATCH_STATES, 2, np.float32)
    matches[: MATCHES * BUCKETS] = np.log((np.arange(MATCHES * BUCKETS) % BUCKETS + 1) / 0.6)
    weights = np.full((WEIGHT_ROWS, INPUTS), 0.1, np.float32)
    weights[:, BY_MATCH + MATCHES : BY_BACKOFF] = 0  # of runs
    weights[:, CONSTANT], weights[:, BY_NETWORK] = 0, 0.2
    return Learned(
        characters,
        children,
        maps,
        np.tile(recent, (RECENT, 1)),
        matches,
        weights,
        np.full((LAST_ROWS, SETS), 1 / SETS, np.float32),
        np.zeros(ADAPTATION, np.float32),
        np.tile(_first_shares(), (LEARNED_SHARES, 1)),
    )


def _first_shares() -> Floats:
    """Return the shares of the more general contexts before they are learned: as in the other estimates."""
    numbers = [np.array([0, 1, 2, 3, *(last - 1 for last in steps), 2 * steps[-1]]) for steps in _STEPS]
    different, counts, places = numbers
    known = _share(different[:, None], counts[None, :])
    history = _share(np.array([1, 2, 3, 6])[None, :, None], places[:, None, None])
    shares = np.append(known, np.broadcast_to(history, (8, 4, 4)))
    return shares.astype(np.float32)


def _share(different: NDArray[np.int64], total: NDArray[np.int64]) -> NDArray[np.float64]:
    rest = BACKOFF_SHARE * np.maximum(different, 1)
    return rest / (total + rest)


def characters_of(text: NDArray[np.int32], vocabulary: Vocabulary, *, is_records: bool) -> NDArray[np.int32]:
    """Return `Experts.characters`."""
    numbers: dict[str, int] = {}
    table = np.zeros((len(vocabulary), 3), np.int32)
    table[0, KIND] = SIGN
    for i, c in enumerate(vocabulary.characters, 1):
        is_part = vocabulary.alphabet == "bytes" and not c.isascii()  # of a character, probably a letter
        table[i, FOLDED] = numbers.setdefault(c if is_part else c.lower(), len(numbers) + 1)
        table[i, KIND] = LETTER if is_part else _kind(c, is_records=is_records)
        table[i, BRACKET_KIND] = _BRACKET_KINDS.get(c, 0)
    if delimiter := _delimiter(text, vocabulary.characters):
        marks = {delimiter: DELIMITER, '"': QUOTE}
        table[0, BRACKET_KIND] = 1
        table[1:, BRACKET_KIND] = [
            marks.get(c, kind)
            for c, kind in zip(vocabulary.characters, table[1:, BRACKET_KIND].tolist(), strict=True)
        ]
    return table


def _delimiter(text: NDArray[np.int32], characters: Sequence[str]) -> str | None:
    """Return what separates the cells of a table, which almost all lines have the same number of, or None.

    Cells are words rather than sentences: with more spaces than delimiters a text is none.
    """
    ids = {c: i for i, c in enumerate(characters, 1)}
    ends = np.flatnonzero(text == ids.get("\n", -1))
    if len(ends) < _MIN_TABLE_LINES:
        return None
    whole = text[: ends[-1]]
    line = np.searchsorted(ends, np.arange(len(whole)))
    quotes = np.cumsum(whole == ids.get('"', -1))
    is_outside = (quotes - np.append(0, quotes[ends[:-1]])[line]) % 2 == 0
    spaces = np.count_nonzero(whole == ids.get(" ", -1))
    for delimiter in _DELIMITERS:
        found = line[is_outside & (whole == ids.get(delimiter, -1))]
        usual = np.bincount(np.bincount(found, minlength=len(ends)))
        if len(found) > spaces and usual[1:].max() >= _TABLE_SHARE * len(ends):
            return delimiter
    return None


def _kind(c: str, *, is_records: bool) -> int:
    if c == "\n":
        return RECORD_END if is_records else LINE_END
    if c.isspace():
        return SPACE
    if c.isdigit():
        return DIGIT
    if unicodedata.category(c)[0] in "LM":  # letters, and marks on them
        return LOWER if c.islower() else UPPER if c.isupper() else LETTER
    return SIGN
