import base64
import hashlib
import re
from pathlib import Path

import httpx

from nextchar.app.console.routes import POLICY, REFERENCE_POLICY
from nextchar.app.models import archives
from tests.app.service import Service

CONSOLE = Path(__file__).parents[3] / "app" / "console" / "files"


def test_console_and_reference_come_under_a_policy_that_allows_this_host_only(service: Service) -> None:
    for path, policy in (("/", POLICY), ("/docs", REFERENCE_POLICY)):
        answer = service.http.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"] == policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in POLICY and "unsafe" not in POLICY
    assert f"{POLICY}; img-src 'self' data:" == REFERENCE_POLICY
    assert service.http.get("/redoc").status_code == 404


def test_a_page_that_a_browser_has_is_not_sent_again(service: Service) -> None:
    for path in ("/", "/console/app.js"):
        first = service.http.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = service.http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]


def test_console_is_told_the_cap_on_corpora(service: Service) -> None:
    about = service.http.get("/console/about.json").json()
    assert about["max_corpus_bytes"] == service.settings.max_corpus_bytes


def test_the_sample_text_is_enough_to_train_on(service: Service) -> None:
    answer = service.http.get("/console/sample.txt")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    corpus = service.http.post("/v1/corpora", content=answer.content).json()
    assert corpus["characters"] > 100_000 and corpus["warnings"] == []


def test_the_sample_log_is_always_the_same_and_is_taken_for_a_log(service: Service) -> None:
    answer = service.http.get("/console/sample-log.txt.gz")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    digest = hashlib.sha256(answer.content).hexdigest()
    assert digest == "c1c5aab4f4dbef64e591ef6dc4c23d515990b60db5af159616d05bbc2dd95b3f"
    corpus = service.http.post("/v1/corpora", content=answer.content).json()
    assert (corpus["kind"], corpus["lines"], corpus["warnings"]) == ("log", 1500, [])
    assert "timestamp" in corpus["suggested_masks"] and "ip" in corpus["suggested_masks"]


def test_vendored_files_are_those_of_the_package_and_the_page_checks_their_hashes(service: Service) -> None:
    page = service.http.get("/docs").text
    [note] = CONSOLE.glob("vendor/*/README.md")
    hashes = dict(re.findall(r"`([^`]+)` \| `([0-9a-f]{64})`", note.read_text()))
    assert sorted(hashes) == ["swagger-ui-bundle.js", "swagger-ui.css"]
    for name, digest in hashes.items():
        answer = service.http.get(f"/console/vendor/{note.parent.name}/{name}.gz")
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["content-type"].partition(";")[0] in ("text/javascript", "text/css")
        assert hashlib.sha256(answer.content).hexdigest() == digest
        assert f'integrity="sha256-{base64.b64encode(bytes.fromhex(digest)).decode()}"' in page
    assert (note.parent / "LICENSE").is_file()
    assert sum(path.stat().st_size for path in note.parent.iterdir()) < 1_500_000


def test_no_file_names_another_host_or_writes_markup() -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\("
    for path in CONSOLE.rglob("*.*"):
        if not path.is_file() or CONSOLE / "vendor" in path.parents or path.suffix == ".gz":
            continue
        text = path.read_text()
        assert set(re.findall(r"https?://[^/\"' ]+", text)) <= {"http://www.w3.org"}, path.name
        assert not re.search(markup, text), path.name


def test_every_module_that_is_imported_is_there() -> None:
    for path in CONSOLE.rglob("*.js"):
        for name in re.findall(r'from "(\.[^"]+)"', path.read_text()):
            assert (path.parent / name).resolve().is_file(), f"{path.name} imports {name}"


def test_head_is_answered(service: Service) -> None:
    answer = httpx.head(str(service.http.base_url) + "/")
    assert answer.status_code == 200 and answer.content == b""


def test_every_file_of_a_model_says_what_is_in_it() -> None:
    script = (CONSOLE / "components" / "model-files.js").read_text()
    names = [*archives._WEIGHTS, *archives._JSON, *archives._NOT_IMPORTED]
    assert [name for name in names if f'"{name}": "' not in script and "tfevents" not in name] == []
