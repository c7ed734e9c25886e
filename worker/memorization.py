"""Measures memorization: how much of what a network writes is copied from its training text.

Three measurements, each also on held-out text as a reference, and one of lines that may not be suggested:

- the longest passages of generated text that occur verbatim in the training text;
- the fraction of its n-grams that are novel (McCoy et al. 2023, "How much do language models copy from their
  training data?");
- the fraction of places in the training text whose continuation greedy decoding repeats (Carlini et al. 2023,
  "Quantifying memorization across neural language models");
- the fraction of withheld lines that greedy decoding completes from their first halves.

Copies are found with suffix arrays of blocks of the training text, so memory is bounded.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models import report as schema
from nextchar.models.report import CopyCounts, Memorization, RepeatedContinuations, Verdict, WithheldLines
from nextchar.models.runtime.decoding import Sampler, uniforms
from nextchar.models.runtime.requests import CompletionRequest
from nextchar.models.runtime.session import StepNetwork
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker.prepared_text import Ids

Array = NDArray[np.int32]
Rows = Sequence[Array] | Array  # separate texts: (R, N), or of unequal lengths

NOVEL_LENGTHS = (4, 8, 16, 32, 64)
"""The n of the n-grams that are counted."""

MIN_COPIED_CHARACTERS = 32
"""The shortest passage of the training text that counts as copied."""

TEMPERATURES = (1.0, 0.5)
CHARACTERS = 5000  # generated at each temperature
MAX_PASSAGES = 5  # in the report

_ROWS = 8  # texts generated in parallel
_PROMPT_CHARACTERS = 100
_BLOCK_BYTES = 16 << 20  # of training text per suffix array, which takes four times that
_MAX_PASSAGE_CHARACTERS = 2000
_PROBES = 32  # places in each text whose continuation is generated
_PROBE_LEAD = 50
_PROBE_LENGTH = 50
_MIN_CONTINUATION = 16  # characters; shorter ones can be repeated by chance
_MAX_WITHHELD = 64  # lines that are probed
_MARGIN = 0.1  # over the share in held-out text
_GENERATION_END, _PROBES_END = 0.5, 0.6  # shares of the time


@dataclass(frozen=True)
class Withheld:
    """Lines, in a model's characters, that may not be suggested, and what tells the service so."""

    lines: Sequence[str]
    is_hidden: Callable[[str], bool]


@dataclass(frozen=True)
class Passage:
    """A passage that occurs in the training text, at `offset`; lengths in characters."""

    length: int
    offset: int
    row: int
    start: int  # in the row


@dataclass(frozen=True)
class Copies:
    """How much of some texts occurs in the training text.

    Attributes:
        characters: the length of the texts.
        novel: by n, the fraction of n-gram occurrences that are not in the training text.
        copied: the fraction of characters in passages of at least MIN_COPIED_CHARACTERS.
        longest: the length of the longest passage.
        passages: the longest passages that do not overlap, longest first.
    """

    characters: int
    novel: dict[int, float]
    copied: float
    longest: int
    passages: list[Passage]


def measure(
    network: StepNetwork,
    train: Ids,
    validation: Ids,
    *,
    decode: Callable[[Sequence[int]], str],
    seed: int,
    seconds: float,
) -> Memorization:
    """Measure memorization; return that part of the report.

    The verdict is `copies` if, compared with held-out text, 10 % more of the text generated at temperature 1
    is copied, or 10 % more continuations are repeated; `repetitive` if 10 % of it is copied, but as much of
    held-out text, as in logs; else `novel`.

    Args:
        network: trained on `train`.
        train: (N,) ids, at least two.
        validation: (M,) ids of held-out text, at least two; also the source of prompts.
        decode: converts ids to text.
        seed: of the generated text.
        seconds: the time limit. A slow network writes less, and a huge text is searched in part.
    """
    began = time.monotonic()
    prompts = _evenly_spaced(validation, rows=_ROWS, length=_PROMPT_CHARACTERS)
    length = CHARACTERS // len(prompts)
    written: list[Array] = []  # (R, N) each
    for number, temperature in enumerate(TEMPERATURES, start=1):
        deadline = began + seconds * _GENERATION_END * number / len(TEMPERATURES)
        text = generate(
            network, prompts.T, characters=length, temperature=temperature, seed=seed, deadline=deadline
        )
        written.append(text.T)
    repeated = _repeated(network, train, validation, deadline=began + seconds * _PROBES_END)
    reference = _evenly_spaced(validation, rows=_ROWS, length=CHARACTERS // _ROWS)
    (held_out, *generated), searched = copies(
        [reference, *written], train, size=network.V, deadline=began + seconds
    )

    def counts(found: Copies) -> CopyCounts:
        passages: list[schema.Passage] = []
        for p in found.passages:
            text = decode(train[p.offset : p.offset + p.length].tolist())
            passages.append({"length": p.length, "offset": p.offset, "text": text})
        novel = {str(n): share for n, share in found.novel.items()}
        return {**vars(found), "novel": novel, "passages": passages}  # type: ignore[typeddict-item]

    return {
        "verdict": _verdict(generated[0], held_out, repeated),
        "copied_from_characters": MIN_COPIED_CHARACTERS,
        "generated": [
            {"temperature": t, **counts(found), "text": decode(rows[0].tolist())}  # type: ignore[typeddict-item]
            for t, found, rows in zip(TEMPERATURES, generated, written, strict=True)
        ],
        "held_out": counts(held_out),
        "repeated": repeated,
        "searched_characters": searched,
        "training_characters": len(train),
        "prompt_characters": prompts.shape[1],
    }


def _verdict(generated: Copies, held_out: Copies, repeated: RepeatedContinuations) -> Verdict:
    is_long_enough = repeated["continuation"] >= _MIN_CONTINUATION
    repeats = is_long_enough and repeated["training"] > repeated["held_out"] + _MARGIN
    if repeats or generated.copied > held_out.copied + _MARGIN:
        return "copies"
    return "repetitive" if generated.copied > _MARGIN else "novel"


def copies(
    groups: Sequence[Rows], train: Ids, *, size: int, deadline: float | None = None
) -> tuple[list[Copies], int]:
    """Find what occurs in `train`, for each group of texts.

    Args:
        groups: each a group of separate texts.
        train: (N,) ids.
        size: V, with id 0.
        deadline: in `time.monotonic`; no further block of the training text is searched after it.

    Returns:
        The copies of each group, and how many characters of the training text were searched, from its start.
    """
    all_rows = [row for group in groups for row in group]
    lengths, offsets, searched = _matches(all_rows, train, size, deadline)
    results, begin = [], 0
    for group in groups:
        rows = slice(begin, begin + len(group))
        results.append(_count(lengths[rows], offsets[rows]))
        begin += len(group)
    return results, searched


def _count(lengths: Sequence[NDArray[np.int64]], offsets: Sequence[NDArray[np.int64]]) -> Copies:
    """Return the copies in rows; `lengths` are those of the longest match at each position."""
    novel = {}
    for n in NOVEL_LENGTHS:
        complete = [row[: len(row) - n + 1] for row in lengths if len(row) >= n]
        if complete:
            novel[n] = float((np.concatenate(complete) < n).mean())
    count, copied = sum(map(len, lengths)), 0
    for row in lengths:
        positions = np.arange(len(row))
        ends = np.maximum.accumulate(np.where(row >= MIN_COPIED_CHARACTERS, positions + row, 0))
        copied += int((ends > positions).sum())
    passages = _maximal(lengths, offsets)
    longest = passages[0].length if passages else 0
    return Copies(count, novel, copied / max(1, count), longest, _without_overlaps(passages))


def _matches(
    rows: Sequence[Array], train: Ids, size: int, deadline: float | None
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], int]:
    """Find the longest match in `train` at each position of each row.

    Returns:
        By row and position, the length of the match and its offset in `train`; and how much was searched.
    """
    from pydivsufsort import divsufsort

    dtype = np.dtype(np.uint8 if size <= 1 << 8 else ">u2" if size <= 1 << 16 else ">u4")
    width = dtype.itemsize  # big-endian, so that bytes compare as ids do
    lengths = [np.zeros(len(row), np.int64) for row in rows]
    offsets = [np.zeros(len(row), np.int64) for row in rows]
    texts = [row.astype(dtype).tobytes() for row in rows]
    overlap = min(
        _MAX_PASSAGE_CHARACTERS, max(map(len, rows), default=0)
    )  # so that block borders cut no passage
    block = max(_BLOCK_BYTES // width, 2 * overlap)
    searched = 0
    for begin in range(0, max(1, len(train) - overlap), block - overlap):
        if begin and deadline is not None and time.monotonic() > deadline:
            break
        piece = train[begin : begin + block].astype(dtype)
        data = piece.tobytes()
        suffixes = divsufsort(data)
        if width > 1:
            suffixes = suffixes[suffixes % width == 0]
        searched = begin + len(piece)
        for text, length, offset in zip(texts, lengths, offsets, strict=True):
            for i in range(len(length)):
                pattern = text[i * width : (i + _MAX_PASSAGE_CHARACTERS) * width]
                place = bisect_left(suffixes, pattern, key=_prefix_of(data, len(pattern)))
                # The suffix with the longest common prefix is next to this place.
                for at in suffixes[max(0, place - 1) : place + 1].tolist():
                    shared = _common_prefix(data[at : at + len(pattern)], pattern) // width
                    if shared > length[i]:
                        length[i], offset[i] = shared, begin + at // width
    return lengths, offsets, searched


def _prefix_of(data: bytes, length: int) -> Callable[[Any], bytes]:
    return lambda at: data[at : at + length]


def _common_prefix(a: bytes, b: bytes) -> int:
    """Return the length of the longest common prefix.

    >>> _common_prefix(b"abcd", b"abxd")
    2
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _maximal(lengths: Sequence[NDArray[np.int64]], offsets: Sequence[NDArray[np.int64]]) -> list[Passage]:
    """Return the passages that cannot be extended to the left, longest first."""
    passages = []
    for row, (length, offset) in enumerate(zip(lengths, offsets, strict=True)):
        before = np.concatenate([[0], length[:-1]])
        starts = np.flatnonzero((length > 0) & (length >= before))
        passages += [Passage(int(length[i]), int(offset[i]), row, int(i)) for i in starts]
    return sorted(passages, key=lambda p: (-p.length, p.row, p.start))


def _without_overlaps(passages: Sequence[Passage]) -> list[Passage]:
    """Return the first MAX_PASSAGES that overlap neither in their row nor in the training text."""
    kept: list[Passage] = []
    for passage in passages:
        if len(kept) == MAX_PASSAGES:
            break
        if all(
            abs(passage.offset - other.offset) >= other.length
            and (passage.row != other.row or abs(passage.start - other.start) >= other.length)
            for other in kept
        ):
            kept.append(passage)
    return kept


def generate(
    network: StepNetwork,
    prompts: Array,
    *,
    characters: int,
    temperature: float,
    seed: int,
    deadline: float | None = None,
) -> Array:
    """Return the text (N, B) that `network` writes after `prompts` (P, B): ids other than 0.

    N is `characters`, or less if `deadline`, in `time.monotonic`, is reached before.
    """
    B = prompts.shape[1]
    sampler = Sampler([CompletionRequest(prompt="", temperature=temperature)] * B, network.V)
    drawn = np.stack([uniforms(seed, row, 0, characters) for row in range(B)])  # (B, N)
    logits, state = network.step(prompts, network.initial_state(B), len(prompts) - 1)
    written = np.empty((characters, B), np.int32)
    for i in range(characters):
        written[i] = sampler.choose(logits[-1], drawn[:, i].tolist())
        if deadline is not None and time.monotonic() > deadline:
            return written[: i + 1]
        logits, state = network.step(written[i : i + 1], state)
    return written


def _repeated(network: StepNetwork, train: Ids, validation: Ids, *, deadline: float) -> RepeatedContinuations:
    """Return the fraction of continuations that greedy decoding repeats exactly, in both texts."""
    length = min(_PROBE_LEAD + _PROBE_LENGTH, len(train), len(validation))
    lead = length // 2
    assert lead, "texts of at least two characters"
    parts = [_evenly_spaced(ids, rows=_PROBES, length=length) for ids in (train, validation)]
    probes, count = np.concatenate(parts), len(parts[0])
    written = generate(
        network, probes[:, :lead].T, characters=length - lead, temperature=0.0, seed=0, deadline=deadline
    ).T
    same = (written == probes[:, lead : lead + written.shape[1]]).all(1)
    return {
        "training": float(same[:count].mean()),
        "held_out": float(same[count:].mean()),
        "lead": lead,
        "continuation": written.shape[1],
    }


def measure_withheld(
    network: StepNetwork, withheld: Withheld, vocabulary: Vocabulary, *, seconds: float
) -> WithheldLines:
    """Measure how often greedy decoding completes withheld lines, and how often these would be suggested.

    Up to _MAX_WITHHELD lines are probed, evenly spaced, in about `seconds`; a line of one character is not.
    """
    deadline = time.monotonic() + seconds
    lines = [line for line in withheld.lines if len(line) > 1]
    probed, completed, suggested = 0, 0, 0
    for line in lines[:: -(-len(lines) // _MAX_WITHHELD)] if lines else ():
        ids = vocabulary.encode("\n" + line + "\n")
        half = 1 + len(line) // 2
        rest = ids[half:]
        written = generate(
            network, ids[:half, None], characters=len(rest), temperature=0.0, seed=0, deadline=deadline
        )[:, 0]
        if time.monotonic() > deadline:
            break
        probed += 1
        if np.array_equal(written, rest):
            completed += 1
            suggested += not withheld.is_hidden(line)
    return {
        "lines": len(withheld.lines),
        "probed": probed,
        "completed": completed / max(1, probed),
        "suggested": suggested / max(1, probed),
    }


def _evenly_spaced(ids: Ids, *, rows: int, length: int) -> Array:
    """Return up to `rows` separate parts of `length` ids, (R, length); fewer or shorter of a short text.

    >>> _evenly_spaced(np.arange(7, dtype=np.int32), rows=2, length=3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    length = min(length, len(ids))
    rows = max(1, min(rows, len(ids) // length))
    starts = [row * (len(ids) // rows) for row in range(rows)]
    return np.stack([ids[start : start + length] for start in starts])
