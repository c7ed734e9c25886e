"""Hostile files of saved models, with their hashes fixed up, loaded under a limit of memory.

    python -m tests.fuzz.hostile_files --seed 1 --cases 60

For each case it prints one line, `<case> <outcome>`: `loaded`, and then used for a completion and a score, or
the class of the error. A case that ends the process is the one after the last line.
"""

import argparse
import base64
import io
import json
import pickle
import random
import resource
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from nextchar.models.anomaly import calibration as calibration_format
from nextchar.models.errors import DomainError
from nextchar.models.kernels.compile_cache import use_cache_folder
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.requests import CompletionRequest, Failed, Usage
from nextchar.models.saved_model import Card, SavedModel, describe_files, parse_card
from tests.app.service import TEXT
from tests.models.runtime.networks import saved_model

MEMORY_BYTES = 6 << 30
"""Of address space, most of which libraries and threads reserve without using it."""

MARKER = Path("/tmp/nextchar-hostile-file-was-executed")  # noqa: S108 -- only looked for

Files = dict[str, bytes]


class _Executes:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(MARKER), "w")


def archive_bytes(arrays: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def array_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    npy.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def array_header(shape: tuple[int, ...], descr: str = "<i4") -> bytes:
    """Return an array file that claims a shape and has no data."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def entries_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


def _edited(data: bytes, edit: Callable[[np.ndarray], np.ndarray]) -> Iterator[bytes]:
    """Yield an .npz file with each of its arrays edited in turn."""
    arrays = entries_of(data)
    for name, content in arrays.items():
        array = npy.read_array(io.BytesIO(content), allow_pickle=False)
        yield archive_bytes(arrays | {name: array_bytes(edit(array))})


EDITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negative": lambda a: -np.abs(a.astype(np.int64 if a.dtype.kind in "iu" else a.dtype)) - 1,
    "huge": lambda a: np.full(a.shape, 2**62 if a.dtype.kind in "iu" else 1e30).astype(
        np.int64 if a.dtype.kind in "iu" else a.dtype
    ),
    "not-a-number": lambda a: np.full(a.shape, np.nan),
    "empty": lambda a: a[:0],
    "scalar": lambda _: np.array(7),
    "shorter": lambda a: a[: len(a) // 2] if a.ndim else a,
    "text": lambda a: np.full(a.shape, "a"),
    "twice": lambda a: np.concatenate([a, a]) if a.ndim else a,
    "pickled": lambda _: np.array([_Executes()], dtype=object),
}


def cases(seed: int, count: int) -> Iterator[tuple[str, Card, Files]]:
    """Yield hostile models: named ones, then `count` with random damage."""
    saved = saved_model(name="fox", mixed_text=TEXT, int8=True)
    files = {name: saved.file(name) for name in saved.card.files}
    yield "untouched", saved.card, files
    for name in (one for one in files if one.endswith(".npz")):
        for edit, change in EDITS.items():
            for number, data in enumerate(_edited(files[name], change)):
                yield f"{name}:{edit}:{number}", saved.card, files | {name: data}
        arrays = entries_of(files[name])
        for first in list(arrays)[:2]:
            for label, content in (
                ("claims-a-terabyte", array_header((1 << 38,))),
                ("claims-overflow", array_header((1 << 33, 1 << 33))),
                ("claims-negative", array_header((-5,))),
                ("objects", array_header((1,), "|O")),
                ("expands", array_bytes(np.zeros(400 << 20, np.uint8))),
                ("no-array", b"\x93NUMPY\x09\x00"),
            ):
                yield (
                    f"{name}:{first}:{label}",
                    saved.card,
                    files | {name: archive_bytes(arrays | {first: content})},
                )
        yield f"{name}:pickle", saved.card, files | {name: pickle.dumps(_Executes())}
    for name, content in _json_bombs():
        replaced = dict.fromkeys(("templates.json", "mask_values.json", "successors.json"), content)
        yield f"json:{name}", saved.card, files | replaced
    bomb = base64.b64encode(zlib.compress(bytes(600 << 20), 9)).decode()
    bucket = {"longest": 9, "scores": bomb, "statistics": bomb, "spread": [1.0], "tail": None, "lines": 9}
    record = {"format_version": 1, "about": {}, "statistics": ["mean"], "buckets": [bucket]}
    yield (
        "calibration:expands",
        saved.card,
        files | {"calibration.json": json.dumps(record | {"character_excess": [], "characters": 1}).encode()},
    )
    for label, change in (
        ("units", {"units": 1 << 30}),
        ("layers", {"layers": 1 << 20}),
        ("embedding", {"embedding": 1 << 30}),
    ):
        network = saved.card.network.model_copy(update=change)
        yield f"card:{label}", saved.card.model_copy(update={"network": network}), files
    yield "card:alphabet", saved.card.model_copy(update={"characters": "ab"}), files
    yield "card:long-alphabet", saved.card.model_copy(update={"characters": _many_characters()}), files
    chance = random.Random(seed)
    for number in range(count):
        name = chance.choice(sorted(files))
        yield f"random:{number}:{name}", saved.card, files | {name: _damaged(files[name], chance)}


def _json_bombs() -> Iterator[tuple[str, bytes]]:
    yield "deep", b"[" * 200_000 + b"]" * 200_000
    yield "number", b'{"format_version": ' + b"9" * 100_000 + b"}"
    yield "wrong-types", b'{"format_version": 1, "templates": 3, "lines": "x", "unparsed": [], "common": {}}'
    yield "infinite", b'{"format_version": 1, "templates": [], "lines": 1e999, "unparsed": NaN, "common": []}'


def _many_characters() -> str:
    return "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))


def _damaged(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    match chance.randrange(3):
        case 0:
            for _ in range(chance.randint(1, 8)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        case 1:
            del changed[chance.randrange(len(changed)) :]
        case _:
            at = chance.randrange(len(changed))
            changed[at:at] = chance.randbytes(chance.randint(1, 64))
    return bytes(changed)


def outcome(card: Card, files: Files) -> str:
    """Load and use a model; return what came of it."""
    card = card.model_copy(update={"files": describe_files(files)})
    try:
        card = parse_card(card.model_dump_json().encode(), where="model.json")
        loaded = LoadedModel.load(SavedModel(card, files.__getitem__), cache_bytes=1 << 20, max_waiting=9)
        engine, scorer = loaded.engine, loaded.scorer
    except DomainError as error:
        return f"{type(error).__name__}: {error.message}"
    try:
        done = threading.Event()
        failures: list[str] = []

        def on_event(event: object) -> None:
            if isinstance(event, Failed):
                failures.append(f"{type(event.error).__name__}: {event.error}")
            if isinstance(event, Failed | Usage):
                done.set()

        engine.complete(CompletionRequest(prompt="the quick", max_characters=30, seed=1), on_event)
        assert done.wait(60), "no answer"
        if "calibration.json" in files:
            calibration_format.load(files["calibration.json"], where="calibration.json")
        assert len(scorer.read(["the quick brown fox", "~"], precision="both")) == 2
        return f"loaded, then {failures[0]}" if failures else "loaded"
    except DomainError as error:
        return f"{type(error).__name__}: {error.message}"
    finally:
        engine.close()


def _peak_mb() -> int:
    """Return this program's peak resident memory; `ru_maxrss` also has that of the one that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20  # bytes on macOS
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) >> 10


def main() -> int:
    """Load every case in turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=60)
    asked = parser.parse_args()
    use_cache_folder(Path(__file__).parents[2] / "data")
    MARKER.unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for name, card, files in cases(asked.seed, asked.cases):
        try:
            ended = outcome(card, files)
        except Exception as error:  # noqa: BLE001 -- any is a finding, and the next case is tried
            ended = f"UNEXPECTED {type(error).__name__}: {error}"
        print(name, ended[:200].replace("\n", " "), flush=True)
    print(f"peak {_peak_mb()} MB, executed {MARKER.exists()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
