"""Writes a model as one file for the runtime without a server, `clients/offline/nextchar.c`.

docs/reference/pack.md describes the file byte by byte. The constants in capitals are also the C header's:
`python -m clients.generate` writes them there.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models import pack_lines
from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.errors import InvalidInput
from nextchar.models.kernels import mixture_arguments
from nextchar.models.kernels.lstm_arguments import TANH_EXPONENT
from nextchar.models.kernels.mixture_arguments import Experts
from nextchar.models.runtime.decoding import BITS
from nextchar.models.runtime.int8_file import check_int8, read_int8
from nextchar.models.runtime.lstm_network import layers_of
from nextchar.models.runtime.mixture import experts_of, make_mixture
from nextchar.models.runtime.mixture_learning import learned_by
from nextchar.models.runtime.model_networks import INT8_FILE, load_experts, load_network
from nextchar.models.runtime.surprisal import text_logprobs
from nextchar.models.saved_model import SavedModel
from nextchar.models.text.line_file import FILE as LINES_FILE
from nextchar.models.text.line_file import Lines, fold
from nextchar.models.text.vocabulary import code_points, unknown_bits

Array = NDArray[Any]

PACK_MAGIC = int.from_bytes(b"nxch", "little")
PACK_VERSION = 2
"""Files of version 1 have no masks and no scores; a runtime for them must not open others."""
PACK_COUNT_AT, PACK_CHECKED_FROM, PACK_HEADER_BYTES, PACK_ENTRY_BYTES = 12, 32, 32, 24
PACK_MAX_SECTIONS, PACK_MAX_V, PACK_MAX_UNITS, PACK_MAX_TEXT, PACK_MAX_LINES = (
    256,
    65536,
    4096,
    2_000_000,
    2_000_000,
)
PACK_IS_WORD = 1
PACK_TANH_EXPONENT = TANH_EXPONENT

(
    PACK_META, PACK_NAME, PACK_POINTS, PACK_FLAGS, PACK_WEIGHTS, PACK_SCALE, PACK_BASE, PACK_TEXT,
    PACK_CHARACTERS, PACK_CHILDREN, PACK_MAPS, PACK_RECENT_MAPS, PACK_MATCH_MAPS, PACK_MIXER_WEIGHTS,
    PACK_LAST_WEIGHTS, PACK_ADAPTATION, PACK_POSITIONS, PACK_SLOTS, PACK_SINGLES, PACK_ENTRIES,
    PACK_UNKNOWN_BITS, PACK_LINE_STARTS, PACK_LINE_FOLDED, PACK_LINE_ALPHABET, PACK_LINE_WORDS,
    PACK_LINE_FOLDS, PACK_LINE_TEXTS, PACK_LINE_TEXT_ENDS, PACK_LINE_COUNTS, PACK_LINE_MAXIMA,
    PACK_LINE_WORD_MAXIMA, PACK_LINE_WEIGHT, PACK_SHARES,
) = range(1, 34)  # fmt: skip
PACK_LIMITED, PACK_BACKOFFS = pack_lines.PACK_RANK_COUNTS + 1, pack_lines.PACK_RANK_COUNTS + 2
"""Types of sections; further ones are those of `nextchar.models.pack_lines`."""

(
    PACK_V, PACK_LAYERS, PACK_IS_BYTES, PACK_STARTS_LINE, PACK_TEXT_COUNT, PACK_POSITIONS_COUNT,
    PACK_SLOTS_COUNT, PACK_SINGLES_COUNT, PACK_ENTRIES_COUNT, PACK_UNITS,
) = range(10)  # fmt: skip
"""Numbers of the section PACK_META; of units there are eight."""
PACK_META_NUMBERS = PACK_UNITS + 8

_MEASURED_CHARACTERS = 5_000  # with which the cost of a limit is measured
_MAX_SMALL = 256  # a text of so many ids has one byte for each

_LEARNED = {
    PACK_CHARACTERS: "characters",
    PACK_CHILDREN: "children",
    PACK_MAPS: "maps",
    PACK_RECENT_MAPS: "recent_maps",
    PACK_MATCH_MAPS: "match_maps",
    PACK_MIXER_WEIGHTS: "weights",
    PACK_LAST_WEIGHTS: "last_weights",
    PACK_ADAPTATION: "adaptation",
    PACK_BACKOFFS: "backoffs",
    PACK_SHARES: "shares",
}
_TABLES = {PACK_POSITIONS: "positions", PACK_SLOTS: "slots", PACK_SINGLES: "singles", PACK_ENTRIES: "entries"}


_LINES = {
    PACK_LINE_STARTS: "starts",
    PACK_LINE_FOLDED: "folded",
    PACK_LINE_ALPHABET: "alphabet",
    PACK_LINE_WORDS: "words",
    PACK_LINE_TEXTS: "texts",
    PACK_LINE_TEXT_ENDS: "text_ends",
    PACK_LINE_COUNTS: "counts",
    PACK_LINE_MAXIMA: "maxima",
    PACK_LINE_WORD_MAXIMA: "word_maxima",
    PACK_LINE_WEIGHT: "weight",
}


def constants() -> dict[str, int | float | tuple[int, ...]]:
    """Return the constants that the C code shares with the mixture's kernels and this module, by name."""
    shared = {
        name: value
        for name, value in vars(mixture_arguments).items()
        if name.isupper() and isinstance(value, int | float | tuple)
    }
    layout = zlib.crc32(repr(sorted(shared.items())).encode())
    own = {name: value for name, value in (globals() | vars(pack_lines)).items() if name.startswith("PACK_")}
    return shared | own | {"PACK_LAYOUT": layout}


def pack(
    saved: SavedModel,
    *,
    limit_bytes: int | None = None,
    with_tables: bool = False,
    calibration: Calibration | None = None,
) -> bytes:
    """Return a model as one file.

    Args:
        saved: the model.
        limit_bytes: the most bytes that the file may have. The beginning of the known text is left out, so
            that it predicts a little worse, and a seed gives other texts than with the service. The file says
            how many bits per character that costs.
        with_tables: also write the tables that are otherwise made when the file is opened: it opens at once,
            and is some times as large.
        calibration: by which the file scores lines; without one it only has their surprisal.

    Raises:
        InvalidInput: the model has no int8 network, or a mask that cannot be packed, or the limit is too
            small.
        Unavailable: a file of the model is damaged.
    """
    card = saved.card
    if INT8_FILE not in card.files:
        raise InvalidInput(
            f"{card.reference} has no int8 LSTM network, so it cannot be packed", param="model"
        )
    experts = whole = load_experts(saved)
    more = list(pack_lines.score_sections(saved, calibration)) if calibration else []
    limited = np.zeros(2)
    if limit_bytes is not None:
        more.append((PACK_LIMITED, 0, limited))
    data = _file(_sections(saved, experts, more, with_tables=with_tables))
    while limit_bytes is not None and len(data) > limit_bytes:
        if experts is None or len(experts.text) <= 1:
            raise InvalidInput(
                f"limit_bytes: without known text {card.reference} takes {len(data):,} bytes; allow more",
                param="limit_bytes",
            )
        # Tables grow with the text, about in proportion.
        share = _known_bytes(experts, with_tables=with_tables) / len(experts.text)
        kept = len(experts.text) - int((len(data) - limit_bytes) / share) - 8
        kept = max(1, min(kept, int(0.98 * len(experts.text))) if with_tables else kept)
        experts = experts_of(experts.text[-kept:].astype(np.int32), learned_by(experts))
        data = _file(_sections(saved, experts, more, with_tables=with_tables))
    if whole and experts and limit_bytes is not None:
        limited[:] = len(whole.text), _cost_of(saved, whole, kept=len(experts.text))
        data = _file(_sections(saved, experts, more, with_tables=with_tables))
    return data


def _cost_of(saved: SavedModel, whole: Experts, *, kept: int) -> float:
    """Return how many bits per character more the end of the known text takes if less before it is known.

    The mixture does not know that end for this, but the network was trained on it.
    """
    count = min(_MEASURED_CHARACTERS, kept // 2)
    if kept == len(whole.text) or not count:
        return 0.0
    ids = whole.text.astype(np.int32)
    measured = saved.vocabulary.decode(ids[-count:].tolist())
    network = load_network(saved, INT8_FILE, threads=1)

    def bits(known: NDArray[np.int32]) -> float:
        mixed = make_mixture(network, experts_of(known, learned_by(whole)))
        described = text_logprobs(mixed, saved.vocabulary, measured, top=0)
        return -sum(one.logprob for one in described) * BITS / count

    return bits(ids[-kept:-count]) - bits(ids[:-count])


def _known_bytes(experts: Experts, *, with_tables: bool) -> int:
    """Return how many bytes the known text takes in the file."""
    text = len(experts.text) * (1 if len(experts.characters) <= _MAX_SMALL else 2)
    return text + with_tables * sum(int(getattr(experts, name).nbytes) for name in _TABLES.values())


def _sections(
    saved: SavedModel, experts: Experts | None, more: Sequence[tuple[int, int, Array]], *, with_tables: bool
) -> Iterator[tuple[int, int, Array]]:
    """Yield the type, the index and the contents of each section."""
    vocabulary, card = saved.vocabulary, saved.card
    arrays = read_int8(saved.file(INT8_FILE))
    units = check_int8(arrays)
    meta = np.zeros(PACK_META_NUMBERS, np.uint32)
    meta[[PACK_V, PACK_LAYERS]] = len(vocabulary), len(units)
    meta[[PACK_IS_BYTES, PACK_STARTS_LINE]] = vocabulary.alphabet == "bytes", card.kind == "records"
    meta[PACK_UNITS : PACK_UNITS + len(units)] = units
    if experts:
        meta[PACK_TEXT_COUNT] = len(experts.text)
        tables = (experts.positions, experts.slots, experts.singles, experts.entries)
        meta[PACK_POSITIONS_COUNT : PACK_ENTRIES_COUNT + 1] = list(map(len, tables))
    yield PACK_META, 0, meta
    yield PACK_NAME, 0, np.frombuffer(card.name.encode(), np.uint8)
    yield PACK_POINTS, 0, code_points(vocabulary.characters).astype(np.uint32)
    yield PACK_FLAGS, 0, np.array([0, *map(vocabulary.is_word_character, vocabulary.characters)], np.uint8)
    yield PACK_UNKNOWN_BITS, 0, np.array([unknown_bits(len(vocabulary))])
    for n, (matrices, scale, base) in enumerate(layers_of(arrays, units)):
        yield PACK_WEIGHTS, n, np.concatenate(matrices)
        yield PACK_SCALE, n, scale
        yield PACK_BASE, n, base
    if experts:
        is_small = len(vocabulary) <= _MAX_SMALL
        yield PACK_TEXT, 0, experts.text.astype(np.uint8) if is_small else experts.text
        for kind, name in (_LEARNED | _TABLES if with_tables else _LEARNED).items():
            yield kind, 0, getattr(experts, name)

    for kind, array in pack_lines.mask_sections(saved):
        yield kind, 0, array
    yield from more
    if LINES_FILE in card.files:
        lines = Lines.load(saved.file(LINES_FILE))
        if len(lines):
            for kind, name in _LINES.items():
                yield kind, 0, getattr(lines, name)
            yield PACK_LINE_FOLDS, 0, _folds(lines)


def _folds(lines: Lines) -> Array:
    """Return (K, 4) uint32, by code point: itself, case-folded, and the numbers of its folded characters.

    The numbers, at most four, have two bytes each. Others are of no character of the lines, or of more.
    """
    known = set(map(chr, lines.alphabet.tolist()))
    rows = []
    for point in (*range(0xD800), *range(0xE000, 0x20000)):
        character = chr(point)
        folded = fold(character)
        if len(folded) <= 4 and known.issuperset(folded):
            numbers = [*lines.encode(folded).tolist(), 0, 0, 0, 0]
            cased = character.casefold()
            rows.append(
                (
                    point,
                    ord(cased) if len(cased) == 1 else point,
                    numbers[0] | numbers[1] << 16,
                    numbers[2] | numbers[3] << 16,
                )
            )
    return np.array(rows, np.uint32).reshape(-1, 4)


def _file(sections: Iterator[tuple[int, int, Array]]) -> bytes:
    """Return the header, the table of sections and the sections, each at a multiple of 8 bytes."""
    parts = [(kind, index, array.tobytes()) for kind, index, array in sections]
    at = PACK_HEADER_BYTES + PACK_ENTRY_BYTES * len(parts)
    table, body = [], []
    for kind, index, data in parts:
        table.append(struct.pack("<IIQQ", kind, index, at, len(data)))
        padded = data + bytes(-len(data) % 8)
        body.append(padded)
        at += len(padded)
    checked = b"".join([*table, *body])
    layout: Any = constants()["PACK_LAYOUT"]
    header = struct.pack("<IIIIQQ", PACK_MAGIC, PACK_VERSION, layout, len(parts), at, checksum(checked))
    return header + checked


def checksum(data: bytes) -> int:
    """Return the checksum of what follows the header: the sum of a hash of each 64-bit word and its place."""
    words = np.frombuffer(data, "<u8")
    places = np.arange(PACK_CHECKED_FROM, PACK_CHECKED_FROM + len(data), 8, dtype=np.uint64)
    hashes = (words ^ (places * np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xD1B54A32D192ED03)
    return int((hashes ^ (hashes >> np.uint64(32))).sum(dtype=np.uint64))
