import asyncio

import httpx
import pytest

from nextchar.models.text.vocabulary import Vocabulary
from tests.app.fakes import CHARACTERS as FAKE_CHARACTERS
from tests.app.fakes import publish
from tests.app.service import Service, error_of
from tests.models.runtime.networks import CHARACTERS


@pytest.mark.parametrize("base", ["", "/v1/models/random"])
def test_texts_go_to_ids_and_back(http: httpx.Client, base: str) -> None:
    asked = {"prompt": "hello e\u0301!", "add_special_tokens": False}
    found = http.post(f"{base}/tokenize", json=asked).json()
    assert found["count"] == len(found["tokens"]) == 8  # after NFC
    assert found["tokens"][-1] == 0 and all(found["tokens"][:-1])
    back = http.post(f"{base}/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": "hello é\ufffd", "content": "hello é\ufffd"}


def test_llama_cpps_name_for_the_text_is_understood(http: httpx.Client) -> None:
    ours = http.post("/tokenize?model=random", json={"prompt": "you"}).json()
    assert http.post("/tokenize", json={"content": "you", "model": "random"}).json() == ours


def test_ids_of_a_text_are_those_that_the_model_reads_in_a_prompt(service: Service) -> None:
    publish(service.models, masks=("numbers",), characters=FAKE_CHARACTERS + "ⓝ")
    tokens = service.http.post("/tokenize", json={"prompt": "port 4045\n12x 7"}).json()["tokens"]
    back = service.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert back == "port ⓝ\n\ufffd\ufffdx ⓝ"
    body = {"prompt": tokens, "max_tokens": 0, "echo": True}
    assert service.http.post("/v1/completions", json=body).json()["choices"][0]["text"] == back


def test_info_is_what_the_harness_looks_for(http: httpx.Client) -> None:
    for path in ("/tokenizer_info", "/v1/models/random/tokenizer_info"):
        info = http.get(path).json()
        assert info["eos_token"] == "\n" and info["bos_token"] is None
        assert info["vocab_size"] == len(CHARACTERS) + 1 and info["model"] == "random@1"
    assert http.post("/tokenize", json={"prompt": info["eos_token"]}).json()["tokens"] == [1]


def test_ids_are_decoded_in_a_worker_thread(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(service.models)
    in_loop: list[bool] = []
    to_text = Vocabulary.to_text

    def record(vocabulary: Vocabulary, characters: str) -> str:
        in_loop.append(asyncio._get_running_loop() is not None)
        return to_text(vocabulary, characters)

    monkeypatch.setattr(Vocabulary, "to_text", record)
    assert service.http.post("/detokenize", json={"tokens": [3, 4]}).json()["content"] == "ab"
    assert in_loop == [False]


def test_wrong_requests_are_refused_by_name(http: httpx.Client) -> None:
    assert error_of(http.post("/detokenize", json={"tokens": [99]}), 422)["code"] == "unknown_id"
    assert error_of(http.post("/detokenize", json={"tokens": [-1]}), 422)["param"] == "tokens.0"
    assert "exactly one" in error_of(http.post("/tokenize", json={}), 422)["message"]
    both = {"prompt": "a", "content": "b"}
    assert "exactly one" in error_of(http.post("/tokenize", json=both), 422)["message"]
    assert error_of(http.post("/v1/models/nobody/tokenize", json={"prompt": "a"}), 404)
