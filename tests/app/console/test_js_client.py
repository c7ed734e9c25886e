"""The JavaScript client as the service sends it, and which pages may call the service."""

import hashlib
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from tests.app.service import Service, served

FOLDER = Path(__file__).parents[3] / "clients" / "js"
PAGE = "https://shop.example"


def test_every_file_is_sent_as_what_it_is_and_any_page_may_load_it(service: Service) -> None:
    kinds = {".js": "text/javascript", ".html": "text/html", ".json": "application/json"}
    kinds[".wasm"] = "application/wasm"
    for path in FOLDER.rglob("*.*"):
        answer = service.http.get(f"/clients/js/{path.relative_to(FOLDER)}", headers={"Origin": PAGE})
        assert answer.status_code == 200 and answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(kinds.get(path.suffix, "text/plain")), path
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_file_is_not_sent_again_while_it_is_the_same(service: Service) -> None:
    first = service.http.get("/clients/js/nextchar.js")
    assert first.headers["cache-control"] == "no-cache"
    again = service.http.get("/clients/js/nextchar.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    assert again.headers["access-control-allow-origin"] == "*"


def test_pages_of_other_hosts_may_not_call_unless_allowed(service: Service, settings: ApiSettings) -> None:
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    ask["Access-Control-Request-Headers"] = "authorization, content-type, x-document"
    path = "/v1/models/fake/complete"
    assert "access-control-allow-origin" not in service.http.options(path, headers=ask).headers
    allowed = settings.model_copy(update={"allowed_origins": f"{PAGE}, https://other.example"})
    with served(create_app(allowed)) as url, httpx.Client(base_url=url) as http:
        may = http.options(path, headers=ask)
        assert may.status_code == 200 and may.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in may.headers["access-control-allow-headers"].lower()
        # A refusal can be read too, and when to come again.
        refused = http.post(path, json={"prompt": ""}, headers={"Origin": PAGE})
        assert refused.status_code == 404 and refused.headers["access-control-allow-origin"] == PAGE
        assert "retry-after" in refused.headers["access-control-expose-headers"].lower()
        others = http.post(path, json={"prompt": ""}, headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in others.headers


def test_browser_may_ask_without_a_key_whether_it_may_send_one(settings: ApiSettings, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"a key for the website").hexdigest()
    (tmp_path / "keys.txt").write_text(f"website sha256={digest} scopes=complete\n")
    guarded = settings.model_copy(update={"allowed_origins": "*", "api_keys_file": tmp_path / "keys.txt"})
    path = "/v1/models/nobody/complete"
    with served(create_app(guarded)) as url, httpx.Client(base_url=url, headers={"Origin": PAGE}) as http:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        assert http.options(path, headers=ask).status_code == 200
        assert http.get("/clients/js/nextchar.js").status_code == 200  # the script tag sends no key
        refused = http.post(path, json={"prompt": ""})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "*"
        key = {"Authorization": "Bearer a key for the website"}
        assert http.post(path, json={"prompt": ""}, headers=key).status_code == 404


@pytest.mark.parametrize(
    "origins", ["example.org", "https://example.org/", "https://a.example b", "https://"]
)
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(ValidationError, match=r"is not an origin; write https://example\.org"):
        ApiSettings(allowed_origins=origins)
