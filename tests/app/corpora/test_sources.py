"""Corpora from files in an object store."""

import gzip

import pytest

from nextchar.app.corpora.transfer import find_sources
from nextchar.app.http.errors import Forbidden
from nextchar.app.rooms import ApiSettings
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.store.open_blobs import open_blobs
from tests.app.service import error_of, serving
from tests.s3_server import S3Server

FILES = {
    "logs/a.log": b"first\n",
    "logs/b.log.gz": gzip.compress(b"second"),
    "logs/c.txt": b"third\n",
    "logs/old/d.log": b"fourth\n",
    "logs/empty.log": b"",
    "logs2/e.log": b"fifth\n",
}


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket that has the files."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3_server.new_bucket()}"
    blobs = open_blobs(url)
    for path, data in FILES.items():
        blobs.write(path, data)
    return url


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("logs/a.log", ["logs/a.log"]),
        ("logs/*.log", ["logs/a.log", "logs/empty.log"]),
        ("logs/**/*.log", ["logs/a.log", "logs/empty.log", "logs/old/d.log"]),
        ("logs/old/", ["logs/old/d.log"]),
        ("logs*/[ae].log", ["logs/a.log", "logs2/e.log"]),
        ("**/d.???", ["logs/old/d.log"]),
    ],
)
def test_a_url_names_one_file_a_folder_or_those_that_match(
    bucket: str, pattern: str, found: list[str]
) -> None:
    _, paths = find_sources(f"{bucket}/{pattern}", [f"{bucket}/"])
    assert paths == found


def test_only_what_the_setting_allows_is_read(bucket: str) -> None:
    for allowed in ([], [f"{bucket}/logs/"]):
        with pytest.raises(Forbidden) as refused:
            find_sources(f"{bucket}/logs2/e.log", allowed)
        assert refused.value.code == "source_not_allowed"
    for invalid in ("logs/../logs2/e.log", "logs/[z-a]"):
        with pytest.raises(InvalidInput) as wrong:
            find_sources(f"{bucket}/{invalid}", [f"{bucket}/logs/"])
        assert wrong.value.code == "invalid_source"


def test_what_is_not_there_is_not_found(bucket: str) -> None:
    for pattern in ("logs/x.log", "x/*", "logs"):
        with pytest.raises(NotFound) as missing:
            find_sources(f"{bucket}/{pattern}", [f"{bucket}/"])
        assert missing.value.code == "source_not_found"


@pytest.mark.parametrize("urls", ["logs", "s3://", "s3://bucket", "file:///etc/", "s3://a/,http://b/"])
def test_a_setting_that_is_no_object_store_stops_the_start(urls: str) -> None:
    with pytest.raises(ValueError, match="is not in an object store"):
        ApiSettings(corpus_sources=urls)


def test_files_in_an_object_store_become_one_corpus(settings: ApiSettings, bucket: str) -> None:
    settings = settings.model_copy(update={"corpus_sources": f"{bucket}/logs/, s3://other/"})
    with serving(settings) as service:
        body = {"url": f"{bucket}/logs/*", "name": "logs", "kind": "records"}
        answer = service.http.post("/v1/corpora/import", json=body)
        assert answer.status_code == 201, answer.text
        corpus = answer.json()
        assert (corpus["files"], corpus["name"], corpus["kind"]) == (3, "logs", "records")
        text = service.http.get(f"/v1/corpora/{corpus['id']}/text").content
        assert text == b"first\nsecond\nthird\n"
        assert service.http.post("/v1/corpora/import", json=body).status_code == 200
        for url, status, code in (
            (f"{bucket}/logs2/e.log", 403, "source_not_allowed"),
            (f"{bucket}/logs/none", 404, "source_not_found"),
            (f"{bucket}/logs/empty.log", 422, "archive_empty"),
        ):
            refused = service.http.post("/v1/corpora/import", json={"url": url})
            assert error_of(refused, status)["code"] == code
        assert not service.spooled
