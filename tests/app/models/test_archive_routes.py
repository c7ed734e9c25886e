"""Export and import of models."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nextchar.app.access.keys import new_key
from nextchar.app.http.limits import DiskWatermark
from nextchar.app.rooms import ApiSettings
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.saved_model import describe_files
from tests.app.fakes import publish
from tests.app.service import Service, error_of, serving, serving_real
from tests.models.runtime.networks import CHARACTERS, random_weights, saved_model

IMPORT = "/v1/models/import"
TAR = {"content-type": "application/x-tar"}
Entries = dict[str, bytes]


def unpacked(archive: bytes) -> Entries:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def packed(entries: Mapping[str, bytes], *special: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for entry in special:
            tar.addfile(entry)
    return file.getvalue()


def exported(service: Service) -> Entries:
    publish(service.models)
    answer = service.http.get("/v1/models/fake/export")
    assert answer.status_code == 200
    return unpacked(answer.content)


def with_files(entries: Entries, **changed: bytes) -> Entries:
    """Return entries with other files, named correctly in the card; `model__onnx` is model.onnx."""
    files = {name: data for name, data in entries.items() if name != "model.json"}
    files |= {name.replace("__", "."): data for name, data in changed.items()}
    card = json.loads(entries["model.json"])
    card["files"] = {name: entry.model_dump() for name, entry in describe_files(files).items()}
    return {"model.json": json.dumps(card).encode()} | files


def post(http: httpx.Client, archive: bytes, **options: Any) -> httpx.Response:
    return http.post(IMPORT, content=archive, headers=TAR, **options)


def test_a_model_completes_the_same_text_after_export_deletion_and_import(settings: ApiSettings) -> None:
    body = {"prompt": "abc", "max_characters": 30, "seed": 7}
    with serving_real(settings, saved_model(int8=True)) as http:
        before = http.post("/v1/models/random/complete", json=body).json()["completions"]
        export = http.get("/v1/models/random/export")
        assert export.headers["content-type"] == "application/x-tar"
        assert int(export.headers["content-length"]) == len(export.content)
        assert export.headers["content-disposition"] == 'attachment; filename="random@1.tar"'
        assert http.delete("/v1/models/random").status_code == 200
        imported = post(http, export.content)
        assert imported.status_code == 201, imported.text
        assert imported.headers["location"] == "/v1/models/random@2"
        assert imported.json() == http.get("/v1/models/random@2").json()
        assert http.post("/v1/models/random/complete", json=body).json()["completions"] == before


def test_a_packed_model_is_downloaded(settings: ApiSettings) -> None:
    saved = saved_model(int8=True, mixed_text="abc abd\n" * 50)
    with serving_real(settings, saved) as http:
        packed = http.get("/v1/models/random/pack")
        assert packed.headers["content-type"] == "application/octet-stream"
        assert packed.headers["content-disposition"] == 'attachment; filename="random@1.nextchar"'
        assert packed.content.startswith(b"nxch")
        limited = http.get("/v1/models/random/pack", params={"limit_bytes": len(packed.content) - 100})
        assert len(limited.content) <= len(packed.content) - 100
        refused = error_of(http.get("/v1/models/random/pack", params={"limit_bytes": 1}), 422)
        assert refused["param"] == "limit_bytes"
        missing = error_of(http.get("/v1/models/random/pack", params={"calibration": "none"}), 404)
        assert missing["code"] == "calibration_not_found"
        assert len(http.get("/v1/models/random/pack?tables=true").content) > len(packed.content)


def test_the_files_of_all_experts_are_imported(settings: ApiSettings) -> None:
    with serving_real(settings, saved_model(mixed_text="abc abd\n" * 50)) as http:
        body = {"prompt": "ab", "max_characters": 5, "seed": 7}
        before = http.post("/v1/models/random/complete", json=body).json()["completions"]
        archive = http.get("/v1/models/random/export").content
        assert {"mixture.npz", "ngram.npz", "word_ngram.npz", "templates.json"} < unpacked(archive).keys()
        assert post(http, archive).json()["id"] == "random@2"
        assert http.post("/v1/models/random@2/complete", json=body).json()["completions"] == before
        score = {"lines": ["abc abd"], "detail": "line"}
        assert http.post("/v1/models/random@2/score", json=score).status_code == 200


def test_a_taken_name_gets_the_next_version_and_name_chooses_another(service: Service) -> None:
    archive = packed(exported(service))
    assert post(service.http, archive).json()["id"] == "fake@2"
    assert post(service.http, archive, params={"name": "other"}).json()["id"] == "other@1"
    error = error_of(post(service.http, archive, params={"name": "no name"}), 422)
    assert error["param"] == "name"
    ids = {card.id for card in service.models.all()}
    assert len(ids) == 3  # deleting one must not delete the files of another


def test_reports_to_look_at_are_not_imported(service: Service) -> None:
    entries = exported(service)
    entries = with_files(entries, report__html=b"<script>", report__json=b'{"loss": 1}')
    assert set(post(service.http, packed(entries)).json()["files"]) == {
        "model.onnx",
        "model.keras",
        "report.json",
    }
    del entries["report.html"]
    assert post(service.http, packed(entries)).status_code == 201


def of_type(kind: bytes, name: str = "extra") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.linkname = "/etc/passwd"
    return entry


def npz(size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(size))
    return file.getvalue()


INVALID: dict[str, Callable[[Entries], bytes]] = {
    "no tar": lambda _: b"x" * 1000,
    "empty": lambda _: b"",
    "compressed": lambda entries: gzip.compress(packed(entries)),
    "no card": lambda entries: packed({n: d for n, d in entries.items() if n != "model.json"}),
    "card is no JSON": lambda entries: packed(entries | {"model.json": b"{"}),
    "card of another format": lambda entries: packed(entries | {"model.json": b'{"format_version": 2}'}),
    "missing file": lambda entries: packed({n: d for n, d in entries.items() if n != "model.onnx"}),
    "other hash": lambda entries: packed(entries | {"model.onnx": b"y" * len(entries["model.onnx"])}),
    "other size": lambda entries: packed(entries | {"model.onnx": b"longer than the file was before"}),
    "extra file": lambda entries: packed(entries | {"extra": b""}),
    "unknown file in the card": lambda entries: packed(with_files(entries, model__pkl=b"")),
    "traversal": lambda entries: packed(entries | {"../model.onnx": b""}),
    "absolute path": lambda entries: packed(entries | {"/tmp/x": b""}),  # noqa: S108
    "symbolic link": lambda entries: packed(entries, of_type(tarfile.SYMTYPE)),
    "hard link": lambda entries: packed(entries, of_type(tarfile.LNKTYPE)),
    "device": lambda entries: packed(entries, of_type(tarfile.CHRTYPE)),
    "folder": lambda entries: packed(entries, of_type(tarfile.DIRTYPE)),
    "sparse file": lambda entries: packed(entries, of_type(tarfile.GNUTYPE_SPARSE)),
    "duplicate": lambda entries: packed(entries, tarfile.TarInfo("model.onnx")),
    "cut off": lambda entries: packed(entries)[:1200],
    "array bomb": lambda entries: packed(with_files(entries, ngram__npz=npz(3_000_000))),
    "no arrays": lambda entries: packed(with_files(entries, ngram__npz=b"PK")),
    "external data": lambda entries: packed(with_files(entries, model__onnx=b"\x0a\x08location\x12")),
    "no number": lambda entries: packed(with_files(entries, report__json=b'{"loss": NaN}')),
    "broken JSON": lambda entries: packed(with_files(entries, report__json=b"[" * 100_000)),
}


def test_invalid_archives_are_refused_and_leave_nothing(settings: ApiSettings) -> None:
    with serving(settings.model_copy(update={"max_model_bytes": 1 << 20})) as service:
        entries = exported(service)
        before = service.blobs.paths("model_files")
        for name, make in INVALID.items():
            answer = post(service.http, make(entries))
            assert answer.status_code == 422, (name, answer.text)
            assert error_of(answer, 422)["code"] == "model_archive_invalid", (name, answer.text)
        assert service.blobs.paths("model_files") == before
        assert [card.reference for card in service.models.all()] == ["fake@1"]
        assert service.spooled == []


def test_a_folder_packed_by_tar_is_accepted(service: Service) -> None:
    entries = {f"./{name}": data for name, data in exported(service).items()}
    assert post(service.http, packed(entries, of_type(tarfile.DIRTYPE, "./"))).status_code == 201


def test_models_that_the_runtime_cannot_load_are_refused(settings: ApiSettings) -> None:
    with serving_real(settings, saved_model()) as http:
        entries = unpacked(http.get("/v1/models/random/export").content)
        answer = post(http, packed(with_files(entries, model__onnx=b"no graph")))
        assert error_of(answer, 422)["code"] == "model_archive_invalid"
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["random@1"]


def test_weights_and_steps_that_are_not_finite_are_refused(settings: ApiSettings) -> None:
    with serving_real(settings, saved_model(int8=True)) as http:
        entries = unpacked(http.get("/v1/models/random/export").content)
        for name, value, expected in (
            ("dense/kernel", np.nan, "'dense_kernel'"),
            ("lstm_1/recurrent", np.inf, "'r1'"),
            ("dense/kernel", 3e38, "step of model.onnx"),  # each is finite, and their sum is not
        ):
            weights = random_weights(len(CHARACTERS) + 1, 5, [12, 12])
            weights["lstm_1/bias"][:] = 100  # all outputs are tanh(1)
            weights[name][..., 0] = value
            graph = stateful_lstm_graph(weights)
            error = error_of(post(http, packed(with_files(entries, model__onnx=graph))), 422)
            assert error["code"] == "model_archive_invalid" and expected in error["message"]
            assert "model.onnx" in error["message"] and "not finite" in error["message"]
        arrays = dict(np.load(io.BytesIO(entries["model.int8.npz"])))
        arrays["lstm_1/scale"][3] = np.nan
        file = io.BytesIO()
        np.savez(file, **arrays)
        error = error_of(post(http, packed(with_files(entries, model__int8__npz=file.getvalue()))), 422)
        assert "lstm_1/scale has numbers that are not finite" in error["message"]
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["random@1"]


def test_archives_over_the_limit_and_of_other_kinds_are_refused(settings: ApiSettings) -> None:
    with serving(settings.model_copy(update={"max_model_bytes": 1000})) as service:
        archive = packed(exported(service))
        assert error_of(post(service.http, archive), 413)["code"] == "model_too_large"
        chunks = (archive[at : at + 500] for at in range(0, len(archive), 500))
        answer = service.http.post(IMPORT, content=chunks, headers=TAR)
        assert error_of(answer, 413)["code"] == "model_too_large"
        for headers in ({"content-type": "application/json"}, TAR | {"content-encoding": "gzip"}):
            answer = service.http.post(IMPORT, content=archive, headers=headers)
            assert error_of(answer, 415)["code"] == "unsupported_media_type"


def test_an_import_needs_room_in_the_spool_and_in_the_storage(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(settings.model_copy(update={"min_free_bytes": 10**6})) as service:
        archive = packed(exported(service))
        for free_bytes, status in ((2 * len(archive) - 1, 507), (2 * len(archive), 201)):
            monkeypatch.setattr(DiskWatermark, "free_bytes", lambda _, free=free_bytes: 10**6 + free)
            assert post(service.http, archive).status_code == status
        monkeypatch.setattr(type(service.blobs), "free_bytes", lambda _: None)  # as of an object store
        monkeypatch.setattr(DiskWatermark, "free_bytes", lambda _: 10**6 + len(archive))
        assert post(service.http, archive).status_code == 201


def test_export_of_a_damaged_model_is_refused(service: Service) -> None:
    card = publish(service.models)
    service.blobs.write(f"model_files/{card.id}/model.onnx", b"other")
    assert error_of(service.http.get("/v1/models/fake/export"), 503)["code"] == "model_damaged"
    assert error_of(service.http.get("/v1/models/nothing/export"), 404)["code"] == "model_not_found"


def test_only_admin_keys_import_and_only_under_names_that_they_permit(
    settings: ApiSettings, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    secrets = {}
    lines = []
    for name, options in {
        "reader": {"scopes": "read,complete,train"},
        "admin": {"scopes": "admin"},
        "limited": {"scopes": "admin", "models": "own-*"},
    }.items():
        secrets[name], line = new_key(name, **options)
        lines.append(line)
    file.write_text("\n".join(lines))
    with serving(settings.model_copy(update={"api_keys_file": file})) as service:
        publish(service.models)

        def headers(name: str) -> dict[str, str]:
            return TAR | {"x-api-key": secrets[name]}

        archive = service.http.get("/v1/models/fake/export", headers=headers("reader")).content

        def status(key: str, **params: str) -> int:
            answer = service.http.post(IMPORT, content=archive, headers=headers(key), params=params)
            return answer.status_code

        assert status("reader") == 403
        assert status("limited") == 403
        assert status("limited", name="own-model") == 201
        assert status("admin") == 201
        assert service.http.get("/v1/models/fake/export", headers=headers("limited")).status_code == 403
