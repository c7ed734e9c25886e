"""Files of models and checkpoints that an attacker has made: they load, or fail with a clear error."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from nextchar.models.text.array_file import inflate, read_arrays
from nextchar.store.local_blobs import LocalBlobs
from nextchar.worker.checkpoints import Checkpoint, Checkpoints
from tests.fuzz.hostile_files import EDITS, archive_bytes, array_bytes, array_header, entries_of

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_hostile_models_neither_crash_nor_run_nor_take_memory() -> None:
    command = [sys.executable, "-m", "tests.fuzz.hostile_files", "--seed", "1", "--cases", "40"]
    paths = f"{ROOT}:{ROOT / 'clients' / 'python'}"
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, check=False
    )
    *cases, last = done.stdout.splitlines()
    assert done.returncode == 0, f"after {last}: {done.stderr[-2000:]}"
    assert cases[0] == "untouched loaded" and len(cases) > 200
    assert [case for case in cases if "UNEXPECTED" in case] == []
    assert sum("Unavailable" in case for case in cases) > 150
    found = re.fullmatch(r"peak (\d+) MB, executed False", last)
    assert found and int(found[1]) < 1500, last


def checkpoint_file(archive: bytes) -> bytes:
    return hashlib.sha256(archive).digest() + archive


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The archive of a real checkpoint, without its digest."""
    blobs = LocalBlobs(tmp_path_factory.mktemp("checkpoint"))
    made = Checkpoint(step=5, arrays={"w": np.ones((3, 2), np.float32)}, meta={"step": 5, "safe": 5})
    Checkpoints(blobs, "job_000000000000").save(made)
    [path] = blobs.paths("checkpoints/job_000000000000")
    return blobs.read(path)[32:]


def test_hostile_checkpoints_are_skipped_with_a_message(tmp_path: Path, checkpoint: bytes) -> None:
    arrays = entries_of(checkpoint)
    hostile = [archive_bytes(arrays | {"w": array_bytes(edit(np.ones(6)))}) for edit in (EDITS["pickled"],)]
    hostile += [
        archive_bytes(arrays | {"w": array_header(shape)})
        for shape in ((1 << 38,), (1 << 33, 1 << 33), (-1,), (0, 1 << 70))
    ]
    hostile += [
        archive_bytes(arrays | {"w": array_bytes(np.zeros(300 << 20, np.uint8))})
    ]  # expands a thousandfold
    hostile += [
        archive_bytes(arrays | {"meta": array_bytes(np.frombuffer(meta, np.uint8))})
        for meta in (b"[]", b"{}", b'{"step": "x"}', b"[" * 50_000, b"\xff")
    ]
    hostile += [b"", b"PK\x05\x06", checkpoint[:-40], b"\x80\x04cos\nsystem\n."]
    for archive in hostile:
        blobs = LocalBlobs(tmp_path)
        checkpoints = Checkpoints(blobs, "job_000000000000")
        blobs.write("checkpoints/job_000000000000/0000000005.npz", checkpoint_file(archive))
        found, [problem] = checkpoints.load()
        assert found is None and "step 5 is damaged" in problem


def test_arrays_are_read_as_numpy_reads_them() -> None:
    file = io.BytesIO()
    given = {"a": np.arange(6).reshape(2, 3), "b": np.asfortranarray(np.eye(3, 2)), "c": np.array(7)}
    np.savez_compressed(file, allow_pickle=False, **given)
    for source in (file.getvalue(), file):
        read = read_arrays(source)
        assert list(read) == list(given)
        for name, array in given.items():
            np.testing.assert_array_equal(read[name], array)
    with pytest.raises(ValueError, match="the limit is 100"):
        read_arrays(file.getvalue(), max_bytes=100)


def test_entries_compressed_in_other_ways_are_refused() -> None:
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("a.npy", array_bytes(np.ones(3)))
        with pytest.raises(ValueError, match="compressed in an unknown way"):
            read_arrays(file.getvalue())


def test_a_version_of_numpys_format_that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown format"):
        read_arrays(archive_bytes({"a": npy.magic(3, 0) + bytes(200)}))


def test_compressed_data_has_a_limit() -> None:
    data = zlib.compress(bytes(1000))
    assert inflate(data, max_bytes=1000) == bytes(1000)
    for damaged, limit in ((data, 999), (data[:-3], 1000), (b"x", 1000), (json.dumps([]).encode(), 9)):
        with pytest.raises(ValueError, match=r"longer than|not compressed"):
            inflate(damaged, max_bytes=limit)
