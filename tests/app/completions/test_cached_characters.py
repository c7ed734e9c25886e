"""The count of cached characters tells a caller about its own prompts only."""

import dataclasses
import json
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nextchar.app.access.keys import new_key
from nextchar.app.rooms import ApiSettings
from tests.app.service import serving_real
from tests.models.runtime.networks import saved_model

KEYS = {name: new_key(name, scopes="complete") for name in ("victim", "attacker")}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[httpx.Client]:
    """The API with keys, the real runtime and the model `random`."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "keys").write_text("".join(line for _, line in KEYS.values()))
    settings = ApiSettings(data_dir=folder, redis_url=redis_url, api_keys_file=folder / "keys")
    with serving_real(settings, saved_model()) as client:
        yield client


@dataclasses.dataclass
class Caller:
    """A client with a key that may name a document."""

    http: httpx.Client
    key: str
    document: str = ""

    def cached(self, prompt: str, path: str = "/v1/models/random/complete", **fields: Any) -> int:
        """Complete a prompt; return how much of it was cached."""
        headers = {"X-API-Key": KEYS[self.key][0], "Content-Type": "application/json"}
        headers |= {"X-Document": self.document} if self.document else {}
        answer = self.http.post(path, headers=headers, content=json.dumps({"prompt": prompt} | fields))
        assert answer.status_code == 200, answer.text
        found = answer.json()
        if "tokens_cached" in found:
            assert found["timings"]["cache_n"] == found["tokens_cached"]
            return int(found["tokens_cached"])
        usage = found["usage"]
        return int(
            usage.get("cached_characters", usage.get("prompt_tokens_details", {}).get("cached_tokens"))
        )


@pytest.mark.parametrize(
    ("victim", "attacker"),
    [
        (("victim", ""), ("attacker", "")),
        (("victim", "tab 1"), ("victim", "tab 2")),
        (("victim", "tab 3"), ("victim", "")),
        (("victim", "tab 4"), ("attacker", "tab 4")),
    ],
)
def test_prompt_of_another_key_or_document_cannot_be_recovered(
    http: httpx.Client, victim: tuple[str, str], attacker: tuple[str, str]
) -> None:
    typist, known = Caller(http, *victim), f"{'-'.join(victim + attacker)} my password is "
    prompt = f"{known}hunter"
    for length in range(len(known), len(prompt) + 1):  # as one who types sends it
        typist.cached(prompt[:length])
    assert typist.cached(prompt) == len(prompt) - 1
    spy = Caller(http, *attacker)
    assert [c for c in string.ascii_lowercase if spy.cached(f"{known}{c}#") > len(known)] == []
    for path in ("/v1/completions", "/infill"):
        prompt = f"{path} {known}hunter"
        assert typist.cached(prompt, path) == 0 == spy.cached(prompt, path)


def test_users_of_openais_protocol_share_no_cached_text(http: httpx.Client) -> None:
    key, path, prompt = Caller(http, "victim"), "/v1/completions", "written by one user of many"
    assert key.cached(prompt, path, user="ann") == 0
    assert key.cached(prompt, path, user="bob") == key.cached(prompt, path) == 0
    assert key.cached(prompt, path, user="ann") == key.cached(prompt, path) == len(prompt) - 1
    assert key.cached(prompt, path, user="\ud800" * 100_000) == 0


def test_documents_of_one_key_without_a_name_share_their_beginning(http: httpx.Client) -> None:
    key = Caller(http, "victim")
    assert key.cached("the same preamble of two texts") == 0
    assert key.cached("the same preamble of two texts and more") == len("the same preamble of two texts")
