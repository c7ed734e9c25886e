"""Prompts are recorded only if the setting says so, and a shadow run compares versions on them."""

import threading
from typing import Any

import pytest
from redis import Redis

from nextchar.app import composition
from nextchar.app.services.prompt_recorder import MAX_CHARACTERS, PromptRecorder
from nextchar.app.settings import ApiSettings
from nextchar.models.runtime.requests import CharacterLogprobs
from nextchar.store.recorded_prompts import TTL_S, RecordedPrompts
from tests.app.fakes import CHARACTERS, FakeEngine, publish
from tests.app.service import Service, error_of, serving, until

CHAMPION = "/v1/models/fake/aliases/champion"


@pytest.fixture
def prompts(clean_redis_url: str) -> RecordedPrompts:
    return RecordedPrompts(Redis.from_url(clean_redis_url, decode_responses=True), 3)


def test_of_prompts_that_extend_each_other_the_longest_is_kept(prompts: RecordedPrompts) -> None:
    recorder = PromptRecorder(prompts, lambda _: True)
    for prompt in ("h", "he", "w", "hel", "wo", "he", "", "hello"):
        recorder.note("m@1", prompt)
    recorder.note("n@2", "x" * 2 * MAX_CHARACTERS + "y")
    recorder.store()
    assert sorted(prompts.all("m")) == ["hello", "wo"]
    assert prompts.all("n") == ["x" * (MAX_CHARACTERS - 1) + "y"]


def test_the_oldest_prompts_are_dropped_and_all_expire(prompts: RecordedPrompts) -> None:
    recorder = PromptRecorder(prompts, lambda _: True)
    for text in "abcde":
        recorder.note("m@1", text)
    recorder.store()
    recorder.note("m@2", "f")
    recorder.store()
    recorder.store()
    assert prompts.all("m") == ["f", "e", "d"]
    assert 0 < prompts.redis.ttl("nextchar:prompts:m") <= TTL_S  # type: ignore[operator]


def test_prompts_of_a_model_that_is_deleted_before_they_are_stored_are_deleted(
    prompts: RecordedPrompts,
) -> None:
    listed = {"kept", "deleted"}
    recorder = PromptRecorder(prompts, listed.__contains__)
    for model in sorted(listed):
        recorder.note(f"{model}@1", "text")
    listed.remove("deleted")
    recorder.store()
    assert (prompts.all("kept"), prompts.all("deleted")) == (["text"], [])


def test_nothing_is_recorded_by_default(service: Service) -> None:
    publish(service.models)
    service.http.post("/v1/models/fake/complete", json={"prompt": "secret"})
    assert service.live._redis.keys("nextchar:prompts:*") == []
    service.http.put(CHAMPION, json={"version": 1})
    publish(service.models)
    answer = service.http.put(CHAMPION, json={"version": 2, "require": {"max_prompt_regression_bits": 0.0}})
    error = error_of(answer, 409)
    assert error["code"] == "alias_check_failed" and "NEXTCHAR_RECORDED_PROMPTS" in error["message"]


def test_a_shadow_run_decides_whether_an_alias_moves(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logprobs(self: FakeEngine, text: str, **_: Any) -> list[CharacterLogprobs]:
        """Half a nat for a known character, three for an unknown one."""
        known = self.vocabulary.encode(text) > 0
        return [CharacterLogprobs(c, -0.5 if k else -3.0, ()) for c, k in zip(text, known, strict=True)]

    monkeypatch.setattr(FakeEngine, "text_logprobs", logprobs)
    monkeypatch.setattr(composition, "RECORD_PROMPTS_S", 0.05)
    with serving(settings.model_copy(update={"recorded_prompts": 10})) as running:
        for characters in ("\nabcdx", "\nabcdxyz", "\nabc"):
            publish(running.models, characters=characters)
        assert running.http.put(CHAMPION, json={"version": 1}).status_code == 200
        for path, body in (
            ("/v1/models/fake/complete", {"prompt": "abcd"}),
            ("/v1/completions", {"model": "fake@champion", "prompt": "dcba"}),
        ):
            assert running.http.post(path, json=body).status_code == 200
        recorded = RecordedPrompts(running.live._redis, 10)
        until(lambda: len(recorded.all("fake")) == 2)
        require = {"max_prompt_regression_bits": 0.1}
        answer = running.http.put(CHAMPION, json={"version": 3, "require": require})
        error = error_of(answer, 409)
        assert error["code"] == "alias_check_failed"
        # 6 known and 2 unknown of 8 characters: 1.125 nats, against 0.5.
        assert "costs 1.623 bits per character and fake@1 0.7213" in error["message"]
        moved = running.http.put(CHAMPION, json={"version": 2, "require": require}).json()
        [check] = moved["checks"]
        assert (check["name"], check["value"], check["limit"]) == ("max_prompt_regression_bits", 0.0, 0.1)
        assert check["note"] == "on 2 recorded prompts with 8 characters"
        for version in (1, 2, 3):
            running.http.delete(f"/v1/models/fake@{version}?force=true")
        assert recorded.all("fake") == []


def test_prompts_are_recorded_unmasked_and_each_version_masks_them_as_its_own(
    settings: ApiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def logprobs(_: FakeEngine, text: str, **__: Any) -> list[CharacterLogprobs]:
        read.append(text)
        return []

    store, are_sent = PromptRecorder.store, threading.Event()
    monkeypatch.setattr(PromptRecorder, "store", lambda recorder: are_sent.is_set() and store(recorder))
    monkeypatch.setattr(FakeEngine, "text_logprobs", logprobs)
    monkeypatch.setattr(composition, "RECORD_PROMPTS_S", 0.05)
    with serving(settings.model_copy(update={"recorded_prompts": 10})) as running:
        publish(running.models, masks=("numbers",), characters=CHARACTERS + "ⓝ")
        publish(running.models)
        publish(running.models, name="raw", characters="".join(map(chr, range(255))), alphabet="bytes")
        assert running.http.put(CHAMPION, json={"version": 1}).status_code == 200
        for path, body in (
            *(("/v1/models/fake@1/complete", {"prompt": prompt}) for prompt in ("p 1", "p 12", "p 12x")),
            (
                "/v1/completions",
                {"model": "fake@1", "prompt": ["q 12x", "<fim_prefix>r 1<fim_suffix><fim_middle>"]},
            ),
            ("/infill", {"model": "fake@1", "input_prefix": "s 1", "prompt": "2"}),
            ("/v1/completions", {"model": "raw", "prompt": [0, 98]}),  # 0 is unknown
        ):
            answer = running.http.post(path, json=body)
            assert answer.status_code == 200, answer.text
        are_sent.set()
        recorded = RecordedPrompts(running.live._redis, 10)
        until(lambda: recorded.all("raw") and len(recorded.all("fake")) == 4)
        assert recorded.all("raw") == ["\ufffda"]
        assert sorted(recorded.all("fake")) == ["p 12x", "q 12x", "r 1", "s 12"]
        body = {"version": 2, "require": {"max_prompt_regression_bits": 0.0}}
        assert running.http.put(CHAMPION, json=body).status_code == 200
        assert sorted(read[:4]) == ["p 12x", "q 12x", "r 1", "s 12"]
        assert sorted(read[4:]) == ["p 12x", "q 12x", "r ⓝ", "s ⓝ"]
