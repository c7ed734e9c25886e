"""Models are listed, downloaded, renamed, exported and imported."""

import base64
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, serving
from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FILES, FakeServer


def test_models_reports_damaged_models_and_what_to_do(run: Run, server: FakeServer) -> None:
    damaged = {"id": "fake@3", "code": "model_damaged", "message": "its card is not JSON"}
    server.damaged_models = [damaged]
    listed = run("models")
    assert "fake@3" not in listed.out
    assert "fake@3 cannot be used: its card is not JSON; restore" in listed.err
    assert "nextchar models rm fake@3" in listed.err
    assert run("models", "--json").json["damaged"] == [damaged]


def test_download_keeps_only_files_with_the_right_hash(run: Run, server: FakeServer, tmp_path: Path) -> None:
    to = tmp_path / "model"
    assert run("models", "download", "fake", "--to", str(to)).status == 0
    assert {f.name: f.read_bytes() for f in to.iterdir() if f.name in FILES} == FILES
    assert (to / "model.json").exists()
    server.damaged = {"model.onnx"}
    outcome = run("models", "download", "fake", "--to", str(tmp_path / "second"))
    assert outcome.status == 1
    assert "hash" in outcome.err
    assert not list((tmp_path / "second").glob("model.onnx*"))


def test_a_model_is_shown_with_its_experts(run: Run, server: FakeServer) -> None:
    shown = run("models", "show", "fake").out
    assert "1.96 bits per character" in shown
    assert "Network alone 2.00, n-grams alone 2.50, Network and n-grams 1.98" in shown


def test_rename_prints_the_new_reference(run: Run, server: FakeServer) -> None:
    assert run("models", "rename", "fake@1", "other").out == "other@1\n"
    assert server.models == ["fake@2", "other@1"]


def test_a_model_is_packed(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("pack", "fake").out.startswith("fake.nextchar, ")
    file = tmp_path / "a.nextchar"
    said = run("pack", "fake", "-o", str(file), "--limit", "500", "--tables", "--calibration", "b").out
    assert said.endswith("; knows 300 of 700 characters, which costs 0.012 bits per character\n")
    assert file.read_bytes().endswith(b"{'limit_bytes': '500', 'calibration': 'b', 'tables': 'true'}")
    page = tmp_path / "page.html"
    assert run("pack", "fake", "--html", str(page)).out.startswith(f"{page}, ")
    assert base64.b64encode(b"packed fake@2 {'tables': 'false'}").decode() in page.read_text()
    assert run("pack", "nothing", "-o", str(tmp_path / "b")).status == 1
    assert not (tmp_path / "b").exists()


def test_an_exported_archive_is_imported_as_it_is(run: Run, server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "m.tar"
    assert run("models", "export", "fake", "--to", str(file)).out == f"{file}\n"
    assert [f.name for f in tmp_path.iterdir()] == ["m.tar"]
    assert "other@1" in run("models", "import", str(file), "--name", "other").out
    ((query, body),) = server.imports
    assert (query, body) == ({"name": "other"}, file.read_bytes())


def test_a_downloaded_folder_is_imported_without_files_that_its_card_does_not_name(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    run("models", "download", "fake", "--to", str(folder))
    (folder / "notes.txt").write_text("mine")
    assert run("models", "import", str(folder), "--json").json["id"] == "fake@3"
    ((_, body),) = server.imports
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert archive.getnames() == ["model.json", *FILES]
        assert {n: archive.extractfile(n).read() for n in FILES} == FILES  # type: ignore[union-attr]
    (folder / "model.json").write_text("{}")
    assert run("models", "import", str(folder)).err.endswith("model.json is not a model's card\n")


@pytest.fixture
def service(tmp_path: Path, clean_redis_url: str) -> Iterator[Service]:
    with serving(ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0)) as running:
        publish(running.models)
        publish(running.models)
        yield running


def test_an_alias_is_moved_listed_rolled_back_and_deleted(
    run: Run, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTCHAR_SERVER", str(service.http.base_url))
    assert "has no alias; make one with" in run("models", "aliases", "fake").err
    assert run("models", "alias", "fake@champion", "1").out == "fake@champion is fake@1\n"
    options = ("--max-bits", "2.5", "--max-regression", "0.1")
    assert run("models", "alias", "fake@champion", "2", *options).out == "fake@champion is fake@2\n"
    assert "champion" in run("models").out
    assert "champion" in run("models", "show", "fake@2").out
    refused = run("models", "alias", "fake@champion", "1", "--calibrated")
    assert refused.status == 1 and "no calibration" in refused.err
    assert run("models", "alias", "fake@champion", "2", "--acceptance-over", "9").status == 0
    shared = run("models", "alias", "fake@champion", "2", "--share", "1", "0.25")
    assert shared.out == "fake@champion is fake@2, and fake@1 for 25% of clients\n"
    assert run("models", "rollback", "fake@champion").out == "fake@champion is fake@2\n"
    assert "champion" in run("models", "rm", "fake@champion").err
    assert run("models", "rollback", "fake@champion").out == "fake@champion is fake@1\n"
    moves = run("models", "aliases", "fake@champion", "--json").json["data"]
    assert [move["action"] for move in moves] == ["rollback", "rollback", "set", "set", "set"]
    assert run("models", "unalias", "fake@champion").out == "deleted fake@champion\n"
    for reference in ("fake", "@champion", "fake@"):
        refused = run("models", "alias", reference, "1")
        assert refused.status == 2 and "is not an alias such as" in refused.err
