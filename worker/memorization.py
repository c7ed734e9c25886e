"""How much of what a network writes is copied from the text it was trained on.

Three questions, each asked of held-out text as well, since people repeat themselves too:

- How long are the passages of generated text that stand in the training text, word for word?
- Which share of its n-grams is new? (McCoy et al. 2023, "How much do language models copy from their
  training data?")
- Led in by characters of the training text, does the likeliest continuation repeat what follows there?
  (Carlini et al. 2023, "Quantifying memorization across neural language models")

Copies are found by a suffix array of the training text, made a block at a time, so that memory is bounded.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import Sampler, uniforms
from models.runtime.requests import CompletionRequest
from models.runtime.session import StepNetwork
from worker.prepared_text import Ids

Array = NDArray[np.int32]
Rows = Sequence[Array] | Array  # texts by themselves: (R, N), or of unequal lengths

NOVEL_LENGTHS = (4, 8, 16, 32, 64)
"""The n of the n-grams that are looked for."""

COPIED_CHARACTERS = 32
"""From this length on, a passage that stands in the training text counts as copied."""

TEMPERATURES = (1.0, 0.5)
CHARACTERS = 5000  # generated at each temperature
PASSAGES = 5  # the longest, that are told

Verdict = Literal["novel", "repetitive", "copies"]

_ROWS = 8  # texts generated side by side
_PROMPT = 100  # characters each is led in by
_BLOCK_BYTES = 16 << 20  # of the training text, sorted at a time: its suffix array takes four times that
_LONGEST = 2000  # characters of a passage that are compared
_PROBES = 32  # places of the training text, and as many held-out ones, whose continuation is asked for
_PROBE_LEAD = 50
_PROBE_LENGTH = 50
_TELLING = 16  # continuations of fewer characters may be right by chance
_MUCH = 0.1  # more than of held-out text, from which on a network is said to copy
_WRITING, _ASKING = 0.5, 0.6  # of the time: when writing, and when asking for continuations, is over


@dataclass(frozen=True)
class Passage:
    """Characters that were written and stand in the training text: `length` of them from `offset` there."""

    length: int
    offset: int
    row: int
    start: int  # in the row


@dataclass(frozen=True)
class Copies:
    """What of some texts stands in the training text.

    Attributes:
        characters: how many were looked at.
        novel: by n, the share of n-grams that do not occur in the training text; all occurrences count.
        copied: share of characters inside of passages of at least COPIED_CHARACTERS.
        longest: length of the longest passage.
        passages: the longest ones, no two of which overlap; longest first.
    """

    characters: int
    novel: dict[int, float]
    copied: float
    longest: int
    passages: list[Passage]


@dataclass(frozen=True)
class Memorization:
    """What there is to say about copying.

    Attributes:
        verdict: `copies` when, against held-out text, a tenth more of the text generated at temperature 1 is
            copied, or a tenth more continuations are repeated; `repetitive` when a tenth of it is copied,
            but as much of held-out text, as with logs; else `novel`.
        generated: by temperature, what of generated text stands in the training text.
        held_out: the same of held-out text, in rows of the same length: what is normal for this text.
        repeated: share of places in the training text whose continuation the network repeats, character by
            character, when it always takes the likeliest; and the same share for held-out text.
        lead: characters that the network reads before such a place.
        continuation: characters that it has to repeat.
        searched: characters of the training text, from its beginning, in which copies were looked for.
        prompt: characters of held-out text that each generated row was led in by.
        texts: by temperature, the first generated row.
    """

    verdict: Verdict
    generated: dict[float, Copies]
    held_out: Copies
    repeated: dict[str, float]
    lead: int
    continuation: int
    searched: int
    prompt: int
    texts: dict[float, Array]

    def told(self, train: Ids, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
        """Return it as JSON values, passages and texts as `decode` writes them."""

        def one(found: Copies) -> dict[str, Any]:
            passages = [
                {
                    "length": p.length,
                    "offset": p.offset,
                    "text": decode(train[p.offset : p.offset + p.length].tolist()),
                }
                for p in found.passages
            ]
            novel = {str(n): share for n, share in found.novel.items()}
            return {**asdict(found), "novel": novel, "passages": passages}

        return {
            "verdict": self.verdict,
            "copied_from_characters": COPIED_CHARACTERS,
            "generated": [
                {"temperature": t, **one(found), "text": decode(self.texts[t].tolist())}
                for t, found in self.generated.items()
            ],
            "held_out": one(self.held_out),
            "repeated": {**self.repeated, "lead": self.lead, "continuation": self.continuation},
            "searched_characters": self.searched,
            "training_characters": len(train),
            "prompt_characters": self.prompt,
        }


def measure(network: StepNetwork, train: Ids, validation: Ids, *, seed: int, seconds: float) -> Memorization:
    """Let `network` write, and look how much of it is copied.

    Args:
        network: what was trained on `train`.
        train: (N,) ids, at least two.
        validation: (M,) ids of held-out text, at least two; prompts come from it.
        seed: of the generated text.
        seconds: for all. A slow network writes less and a huge text is searched in part; the result says so.
    """
    began = time.monotonic()
    prompts = _evenly(validation, rows=_ROWS, length=_PROMPT)
    length = CHARACTERS // len(prompts)
    written: list[Array] = []  # (R, N) each
    for number, temperature in enumerate(TEMPERATURES, start=1):
        deadline = began + seconds * _WRITING * number / len(TEMPERATURES)
        text = generate(
            network, prompts.T, characters=length, temperature=temperature, seed=seed, deadline=deadline
        )
        written.append(text.T)
    repeated, lead, continuation = _repeated(network, train, validation, deadline=began + seconds * _ASKING)
    reference = _evenly(validation, rows=_ROWS, length=CHARACTERS // _ROWS)
    (held_out, *generated), searched = copies(
        [reference, *written], train, size=network.V, deadline=began + seconds
    )
    return Memorization(
        verdict=_verdict(generated[0], held_out, repeated if continuation >= _TELLING else {}),
        generated=dict(zip(TEMPERATURES, generated, strict=True)),
        held_out=held_out,
        repeated=repeated,
        lead=lead,
        continuation=continuation,
        searched=searched,
        prompt=prompts.shape[1],
        texts={t: rows[0] for t, rows in zip(TEMPERATURES, written, strict=True)},
    )


def _verdict(generated: Copies, held_out: Copies, repeated: Mapping[str, float]) -> Verdict:
    by_heart = bool(repeated) and repeated["training"] > repeated["held_out"] + _MUCH
    if by_heart or generated.copied > held_out.copied + _MUCH:
        return "copies"
    return "repetitive" if generated.copied > _MUCH else "novel"


def copies(
    groups: Sequence[Rows], train: Ids, *, size: int, deadline: float | None = None
) -> tuple[list[Copies], int]:
    """Find what stands in `train`, for each group of texts.

    Args:
        groups: each of texts by themselves.
        train: (N,) ids.
        size: V, with id 0.
        deadline: of `time.monotonic`; no further block of the training text is begun after it.

    Returns:
        The copies of each group, and how many characters of the training text were searched: its first ones.
    """
    every = [row for group in groups for row in group]
    lengths, offsets, searched = _matches(every, train, size, deadline)
    found, at = [], 0
    for group in groups:
        rows = slice(at, at + len(group))
        found.append(_count(lengths[rows], offsets[rows]))
        at += len(group)
    return found, searched


def _count(lengths: Sequence[NDArray[np.int64]], offsets: Sequence[NDArray[np.int64]]) -> Copies:
    """Return what is told of rows of which `lengths` characters from each place on are copied."""
    novel = {}
    for n in NOVEL_LENGTHS:
        complete = [row[: len(row) - n + 1] for row in lengths if len(row) >= n]
        if complete:
            novel[n] = float((np.concatenate(complete) < n).mean())
    count, copied = sum(map(len, lengths)), 0
    for row in lengths:
        places = np.arange(len(row))
        ends = np.maximum.accumulate(np.where(row >= COPIED_CHARACTERS, places + row, 0))
        copied += int((ends > places).sum())
    passages = _maximal(lengths, offsets)
    longest = passages[0].length if passages else 0
    return Copies(count, novel, copied / max(1, count), longest, _apart(passages))


def _matches(
    rows: Sequence[Array], train: Ids, size: int, deadline: float | None
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], int]:
    """Search `train` for each row from each of its characters on.

    Returns:
        By row and character, how many from it on stand in `train`, and where; and how much was searched.
    """
    from pydivsufsort import divsufsort

    kind = np.dtype(np.uint8 if size <= 1 << 8 else ">u2" if size <= 1 << 16 else ">u4")
    width = kind.itemsize  # big-endian, so that bytes compare as ids do
    lengths = [np.zeros(len(row), np.int64) for row in rows]
    offsets = [np.zeros(len(row), np.int64) for row in rows]
    texts = [row.astype(kind).tobytes() for row in rows]
    overlap = min(_LONGEST, max(map(len, rows), default=0))  # so that no passage is cut by a block's end
    block = max(_BLOCK_BYTES // width, 2 * overlap)
    searched = 0
    for begin in range(0, max(1, len(train) - overlap), block - overlap):
        if begin and deadline is not None and time.monotonic() > deadline:
            break
        piece = train[begin : begin + block].astype(kind)
        data = piece.tobytes()
        suffixes = divsufsort(data)
        if width > 1:
            suffixes = suffixes[suffixes % width == 0]
        searched = begin + len(piece)
        for text, length, offset in zip(texts, lengths, offsets, strict=True):
            for i in range(len(length)):
                wanted = text[i * width : (i + _LONGEST) * width]
                place = bisect_left(suffixes, wanted, key=_reader(data, len(wanted)))
                # What shares the longest beginning with `wanted` stands beside its place in the order.
                for at in suffixes[max(0, place - 1) : place + 1].tolist():
                    shared = _shared(data[at : at + len(wanted)], wanted) // width
                    if shared > length[i]:
                        length[i], offset[i] = shared, begin + at // width
    return lengths, offsets, searched


def _reader(data: bytes, length: int) -> Callable[[Any], bytes]:
    return lambda at: data[at : at + length]


def _shared(a: bytes, b: bytes) -> int:
    """Return the length of the longest common beginning.

    >>> _shared(b"abcd", b"abxd")
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
    """Return the passages that cannot be made longer at their beginning, longest first."""
    found = []
    for row, (length, offset) in enumerate(zip(lengths, offsets, strict=True)):
        before = np.concatenate([[0], length[:-1]])
        starts = np.flatnonzero((length > 0) & (length >= before))
        found += [Passage(int(length[i]), int(offset[i]), row, int(i)) for i in starts]
    return sorted(found, key=lambda p: (-p.length, p.row, p.start))


def _apart(passages: Sequence[Passage]) -> list[Passage]:
    """Return the first PASSAGES of them that neither overlap nor come from one place of the training text."""
    kept: list[Passage] = []
    for one in passages:
        if len(kept) == PASSAGES:
            break
        if all(
            abs(one.offset - other.offset) >= other.length
            and (one.row != other.row or abs(one.start - other.start) >= other.length)
            for other in kept
        ):
            kept.append(one)
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
    """Return what `network` writes after `prompts` (P, B), (N, B) ids, none of them 0.

    N is `characters`, or less when `deadline`, of `time.monotonic`, is reached before.
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


def _repeated(
    network: StepNetwork, train: Ids, validation: Ids, *, deadline: float
) -> tuple[dict[str, float], int, int]:
    """Return the share of continuations repeated, by text; the characters read before, and of those."""
    length = min(_PROBE_LEAD + _PROBE_LENGTH, len(train), len(validation))
    lead = length // 2
    assert lead, "texts of at least two characters"
    probes = {
        name: _evenly(ids, rows=_PROBES, length=length)
        for name, ids in (("training", train), ("held_out", validation))
    }
    together = np.concatenate([*probes.values()])
    written = generate(
        network, together[:, :lead].T, characters=length - lead, temperature=0.0, seed=0, deadline=deadline
    ).T
    same = (written == together[:, lead : lead + written.shape[1]]).all(1)
    count = len(probes["training"])
    shares = {"training": float(same[:count].mean()), "held_out": float(same[count:].mean())}
    return shares, lead, written.shape[1]


def _evenly(ids: Ids, *, rows: int, length: int) -> Array:
    """Return up to `rows` parts of `length` ids, apart, (R, length); of a short text shorter ones.

    >>> _evenly(np.arange(7, dtype=np.int32), rows=2, length=3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    length = min(length, len(ids))
    rows = max(1, min(rows, len(ids) // length))
    starts = [row * (len(ids) // rows) for row in range(rows)]
    return np.stack([ids[start : start + length] for start in starts])
