"""Corpora are named after files, and come from files, pipes and standard input."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from nextchar.cli.corpora import name_of
from tests.clients.python.conftest import Run, in_shell
from tests.clients.python.fake_server import FakeServer


def test_corpus_add_names_the_corpus_after_its_file(run: Run, server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "My notes (2).txt"
    file.write_text("naïve\n")
    assert run("corpus", "add", str(file), "--json").json["name"] == "My-notes-2"
    assert run("corpus", "add", str(file), "--name", "other", "--json").json["name"] == "other"
    assert run("corpus", "add", "-", "--json", stdin="abc").json["name"] is None


@pytest.mark.parametrize(
    ("file", "name"), [("log.2026.txt", "log.2026"), ("…", None), ("x" * 99, "x" * 64), ("-_a", "a")]
)
def test_corpus_names_made_of_file_names_are_valid(file: str, name: str | None) -> None:
    assert name_of(Path(file)) == name


def test_the_kind_is_shown_sent_and_changed(run: Run, server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("anna\nben\n")
    assert "text: empty lines divide it into parts" in run("corpus", "add", str(file)).out
    assert run("corpus", "add", str(file), "--kind", "records", "--json").json["kind"] == "records"
    assert run("corpus", "set", "names", "--kind", "log", "--json").json["kind"] == "log"
    assert server.bodies("PATCH", "/v1/corpora/names") == [{"kind": "log"}]
    assert run("corpus", "add", str(file), "--kind", "poem").status == 2


@pytest.mark.parametrize("command", [("corpus", "add", ""), ("train", "")])
def test_an_empty_name_is_not_the_current_folder(
    run: Run, server: FakeServer, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.chdir(tmp_path)
    refused = run(*command)
    assert refused.status == 2
    assert "is empty" in refused.err
    assert server.uploads == []


@pytest.mark.parametrize("source", ["- < <(printf hello)", "<(printf hello) --name x", "- <<< hello"])
def test_a_corpus_comes_through_a_pipe(server: FakeServer, source: str) -> None:
    done = in_shell(server, f"corpus add {source}")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.requests[-1][3].strip() == b"hello"


def test_the_whole_file_system_and_empty_folders_are_refused(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    assert "/ is the whole file system; name a folder of texts" in run("corpus", "add", "/").err
    (tmp_path / ".hidden").write_text("no")
    assert "has no files, or hidden ones only" in run("corpus", "add", str(tmp_path)).err
    assert server.uploads == []


def test_a_folder_that_takes_long_to_list_says_where_it_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.cli.corpora._NOTE_EVERY_S", 0.0)
    (tmp_path / "a.txt").write_text("text")
    assert f"listing {tmp_path}: 1 files so far, now in {tmp_path}" in run("corpus", "add", str(tmp_path)).err


@pytest.mark.parametrize(
    "data", [b"plain", gzip.compress(b"text" * 99, mtime=0)[:-9]], ids=["not gzip", "truncated"]
)
def test_a_file_that_cannot_be_decompressed_is_named(run: Run, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "a.txt.gz"
    file.write_bytes(data)
    refused = run("corpus", "add", str(file))
    assert refused.status == 1 and f"nextchar: {file} cannot be decompressed: " in refused.err


def test_the_files_of_a_folder_are_sent_as_an_archive(run: Run, server: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "my logs"
    (folder / "sub").mkdir(parents=True)
    for name, data in {"b.log": b"two\n", "a.log": b"one", "sub/c.log": b"x" * 600, ".hidden": b"no"}.items():
        (folder / name).write_bytes(data)
    assert f"reading 3 files in {folder}, " in run("corpus", "add", str(folder)).err
    _, path, headers, body = server.requests[-1]
    assert path == "/v1/corpora" and headers["Content-Type"] == "application/octet-stream"
    assert server.uploads == [{"name": "my-logs", "archive": "tar"}]
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        names = archive.getnames()
        contents = [archive.extractfile(name).read() for name in names]  # type: ignore[union-attr]
    assert names == ["a.log", "b.log", "sub/c.log"]
    assert contents == [b"one", b"two\n", b"x" * 600]


@pytest.mark.parametrize(("file", "archive"), [("x.tar.gz", "tar"), ("x.tgz", "tar"), ("x.zip", "zip")])
def test_archives_are_sent_as_they_are(
    run: Run, server: FakeServer, tmp_path: Path, file: str, archive: str
) -> None:
    (tmp_path / file).write_bytes(b"data")
    run("corpus", "add", str(tmp_path / file), "--deduplicate")
    assert server.requests[-1][3] == b"data"
    [query] = server.uploads
    assert (query["archive"], query["deduplicate"]) == (archive, "lines")
