"""The files of an archive as one text."""

import contextlib
import gzip
import io
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.app.corpora.archives import Archive, TarArchive, ZipArchive
from nextchar.models.errors import InvalidInput, TooLarge

FILES = {"b/2.txt": b"second\n", "a.txt": "e\u0301nd".encode(), "empty.txt": b"", "big.txt": b"line\n" * 5000}
TEXT = b"second\n" + "e\u0301nd\n".encode() + b"line\n" * 5000


def tar(files: dict[str, bytes], *, mode: str = "w:", form: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def read(archive: Archive, data: bytes, size: int = 1 << 20) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    try:
        text = b"".join(part for piece in pieces for part in archive.feed(piece))
        return text + b"".join(archive.finish())
    finally:
        archive.close()


@pytest.mark.parametrize("size", [1, 500, 513, 10**6])
@pytest.mark.parametrize("mode", ["w:", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_of_a_tar_are_joined_in_its_order(size: int, mode: str, form: int) -> None:
    archive = TarArchive(adds_newlines=True)
    assert read(archive, tar(FILES, mode=mode, form=form), size) == TEXT
    assert archive.files == 3, "an empty file is none"


def test_files_of_a_zip_are_joined_in_its_order(tmp_path: Path) -> None:
    archive = ZipArchive(tmp_path, adds_newlines=True)
    assert read(archive, zipped(FILES), 100) == TEXT
    assert archive.files == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read(form: int) -> None:
    archive = TarArchive(adds_newlines=True)
    name = "/".join(["größe" * 15] * 4) + ".txt.GZ"
    data = tar({name: gzip.compress(b"one\n"), "last": b"two\n"}, form=form)
    for piece in (data[:3000], data[3000:]):
        list(archive.feed(piece))
    assert archive.file == "last"
    assert read(TarArchive(adds_newlines=True), data) == b"one\ntwo\n", "a name in *.gz is decompressed"


def test_hidden_files_links_and_folders_are_left_out(tmp_path: Path) -> None:
    files = {".git/config": b"x\n", "._a.txt": b"x\n", "__MACOSX/a": b"x\n", "./b/../a.txt": b"text\n"}
    made = io.BytesIO(tar(files))
    with tarfile.open(fileobj=made, mode="a:") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"other{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert read(TarArchive(adds_newlines=True), made.getvalue()) == b"text\n"
    assert read(ZipArchive(tmp_path, adds_newlines=True), zipped(files)) == b"text\n"


@pytest.mark.parametrize("cut", [100, 512, 700, 1300])
def test_an_archive_that_ends_too_early_is_broken(cut: int, tmp_path: Path) -> None:
    long = {"a" * 300: b"text\n" * 500}
    for data in (tar(long), tar(long, mode="w:gz")):
        with pytest.raises(InvalidInput) as caught:
            read(TarArchive(adds_newlines=True), data[: min(cut, len(data) - 20)])
        assert caught.value.code in ("archive_broken", "gzip_broken")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(ZipArchive(tmp_path, adds_newlines=True), zipped(FILES)[: min(cut, 300)])


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    for data in (b"just a text\n" * 100, bytes(1023) + b"x" * 512):
        archives: list[Archive] = [TarArchive(adds_newlines=True), ZipArchive(tmp_path, adds_newlines=True)]
        for archive in archives:
            with pytest.raises(InvalidInput) as caught:
                read(archive, data)
            assert caught.value.code in ("archive_broken", "archive_empty")


@pytest.mark.parametrize("files", [{}, {".hidden": b"x"}, {"empty": b""}])
def test_an_archive_without_a_file_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    for archive, data in (
        (TarArchive(adds_newlines=True), tar(files)),
        (ZipArchive(tmp_path, adds_newlines=True), zipped(files)),
    ):
        with pytest.raises(InvalidInput) as caught:
            read(archive, data)
        assert caught.value.code == "archive_empty"


def test_headers_of_any_size_do_not_fill_the_memory() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(InvalidInput, match="extended header of"):
        read(TarArchive(adds_newlines=True), info.tobuf())


@pytest.mark.parametrize(
    "record",
    [
        b"9999999999 path=x\n",
        b"x\n",
        b"11 size=-1\n",
        b"8 path=x\n\n",
        b"29 size=%s\n" % (b"9" * 20),
        "11 size=²\n".encode(),
    ],
)
def test_invalid_extended_headers_are_refused(record: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    with pytest.raises(InvalidInput, match="header"):
        read(TarArchive(adds_newlines=True), info.tobuf() + record.ljust(512, b"\0") + tar(FILES))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"text\n"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(InvalidInput, match="encrypted"):
        read(ZipArchive(tmp_path, adds_newlines=True), bytes(data))


def test_an_archive_that_expands_to_much_more_than_its_text_is_too_large(tmp_path: Path) -> None:
    empty_members = gzip.compress(b"") * 1000
    for files in (
        {".hidden": bytes(50_000), "a.txt": b"text\n"},
        {f"{n}.gz": empty_members for n in range(3)},
    ):
        for archive, data in (
            (TarArchive(adds_newlines=True, max_bytes=40_000), tar(files, mode="w:gz")),
            (ZipArchive(tmp_path, adds_newlines=True, max_bytes=40_000), zipped(files)),
        ):
            if isinstance(archive, ZipArchive) and ".hidden" in files:
                assert read(archive, data) == b"text\n", "a hidden file is not read"
                continue
            with pytest.raises(TooLarge, match="40,000 bytes"):
                read(archive, data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_has_no_compression_that_expands_in_one_step(method: int, tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("a.txt", b"text\n")
    with pytest.raises(InvalidInput, match="not compressed with deflate"):
        read(ZipArchive(tmp_path, adds_newlines=True), made.getvalue())


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_of_too_many_files_is_refused(form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.app.corpora.archives._MAX_TAR_FILES", 3)
    names = ["a" * 120 + str(number) for number in range(7)]  # of an extended header each
    files = dict.fromkeys(names, b"x")
    assert read(TarArchive(adds_newlines=False), tar(dict.fromkeys(names[:3], b"x"), form=form)) == b"xxx"
    with pytest.raises(TooLarge, match="more than 3 files"):
        read(TarArchive(adds_newlines=False), tar(files, form=form))


def test_a_zip_of_very_many_files_is_refused_before_they_are_in_memory(tmp_path: Path) -> None:
    data = zipped({"": b""})
    at = data.index(b"PK\x01\x02")
    entry, end = data[at : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    count = (8 << 20) // len(entry) + 1
    end = end[:12] + (count * len(entry)).to_bytes(4, "little") + end[16:]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="as a tar"):
            read(ZipArchive(tmp_path, adds_newlines=True), data[:at] + entry * count + end, size=1 << 30)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [2**63 - 1, 2**64 - 1])
def test_a_zip_with_a_file_far_beyond_its_end_is_broken(offset: int, tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.txt", b"text\n")
        archive.infolist()[0].header_offset = offset  # in the table of contents, which is written at the end
    with pytest.raises(InvalidInput) as caught:
        read(ZipArchive(tmp_path, adds_newlines=True), made.getvalue())
    assert caught.value.code == "archive_broken"


@pytest.mark.filterwarnings("ignore:Overlapped entries")
@pytest.mark.parametrize("kind", ["tar", "zip"])
@settings(max_examples=300, deadline=2000)
@given(data=st.data())
def test_a_damaged_archive_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    files = {"a.txt": b"text\n", "b.gz": gzip.compress(b"more"), "c" * 120: b"x"}
    valid = bytearray(tar(files, form=tarfile.GNU_FORMAT) if kind == "tar" else zipped(files))
    places = st.integers(0, len(valid) - 1)
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        valid[at] = value
    if kind == "tar":
        for at in range(0, len(valid), 512):  # the checksums of damaged headers are right
            if valid[at + 257 : at + 262] == b"ustar":
                valid[at + 148 : at + 156] = b" " * 8
                valid[at + 148 : at + 156] = b"%06o\0 " % sum(valid[at : at + 512])
    folder = Path(tempfile.gettempdir())
    with contextlib.suppress(InvalidInput):
        read(
            TarArchive(adds_newlines=True) if kind == "tar" else ZipArchive(folder, adds_newlines=True),
            bytes(valid),
        )
