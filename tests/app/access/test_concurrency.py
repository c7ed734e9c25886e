import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from nextchar.app.access.keys import new_key
from nextchar.app.http import limits as limits_module
from nextchar.app.http.limits import REQUESTS_OF_KEY, TTL_S, KeyLimits
from nextchar.app.rooms import ApiSettings
from nextchar.models.errors import Busy
from tests.app.fakes import ENDLESS, publish
from tests.app.service import NO_TLS, Service, bearer_of, error_of, serving, serving_with_keys, until

KEYS = {
    "narrow": new_key("narrow", scopes="complete,read", max_requests=2),
    "stream": new_key("stream", scopes="complete,read,train", max_streams=1),
    "wide": new_key("wide", scopes="complete,read"),
}
PATH = "/v1/models/fake/complete"


@pytest.fixture
def guarded(settings: ApiSettings) -> Iterator[Service]:
    with serving_with_keys(settings, KEYS) as running:
        publish(running.models)
        yield running


as_ = bearer_of(KEYS)


def in_progress(service: Service, kind: str, name: str) -> int:
    with Redis.from_url(service.settings.redis_url) as redis:
        return int(redis.zcard(f"nextchar:in_progress:{kind}:{name}"))


@contextlib.contextmanager
def endless(service: Service, name: str) -> Iterator[httpx.Response]:
    """Begin a streamed completion that does not end."""
    client = httpx.Client(base_url=service.http.base_url, timeout=60, verify=NO_TLS)
    body = {"prompt": ENDLESS, "stream": True}
    with client, client.stream("POST", PATH, json=body, headers=as_(name)) as answer:
        yield answer


def test_requests_above_the_limit_of_a_key_are_429_until_one_has_ended(guarded: Service) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            assert stack.enter_context(endless(guarded, "narrow")).status_code == 200
        refused = guarded.http.get("/v1/models", headers=as_("narrow"))
        error = error_of(refused, 429)
        assert error["code"] == "too_many_requests" and "2 requests in progress" in error["message"]
        assert refused.headers["retry-after"] == "1"
        assert guarded.http.get("/v1/models", headers=as_("wide")).status_code == 200
    until(lambda: guarded.http.get("/v1/models", headers=as_("narrow")).status_code == 200)
    until(lambda: in_progress(guarded, "requests", "narrow") == 0)


def test_streams_above_the_limit_are_429_and_other_calls_are_not(guarded: Service) -> None:
    with endless(guarded, "stream") as first:
        assert first.status_code == 200
        with endless(guarded, "stream") as second:
            second.read()
            assert error_of(second, 429)["code"] == "too_many_streams"
        lines = guarded.http.post(
            "/v1/models/fake/score", content="a\n", headers={**as_("stream"), "Content-Type": "text/plain"}
        )
        assert error_of(lines, 429)["code"] == "too_many_streams"
        answer = guarded.http.post(PATH, json={"prompt": "a"}, headers=as_("stream"))
        assert answer.status_code == 200
    until(lambda: in_progress(guarded, "streams", "stream") == 0)
    with endless(guarded, "stream") as again:
        assert again.status_code == 200
    until(lambda: all(ticket.cancelled.is_set() for ticket in guarded.engines[0].tickets[:3]))


def test_many_calls_at_once_never_exceed_the_limit_and_all_are_counted_off(guarded: Service) -> None:
    with ThreadPoolExecutor(16) as pool:
        get = lambda _: guarded.http.get("/v1/models", headers=as_("narrow")).status_code  # noqa: E731
        assert set(pool.map(get, range(100))) <= {200, 429}
    until(lambda: in_progress(guarded, "requests", "narrow") == 0)


def test_what_a_killed_process_served_expires(guarded: Service) -> None:
    with Redis.from_url(guarded.settings.redis_url) as redis:
        now = int(redis.time()[0])  # type: ignore[index]
        name = "nextchar:in_progress:requests:narrow"
        redis.zadd(name, {"dead1": now + TTL_S, "dead2": now + TTL_S})
        assert guarded.http.get("/v1/models", headers=as_("narrow")).status_code == 429
        redis.zadd(name, {"dead1": now - 1, "dead2": now - 1})
        assert guarded.http.get("/v1/models", headers=as_("narrow")).status_code == 200


def test_what_takes_long_is_renewed(guarded: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "TTL_S", 3)
    with Redis.from_url(guarded.settings.redis_url) as redis, endless(guarded, "narrow"):
        name = "nextchar:in_progress:requests:narrow"
        [(member, first)] = redis.zrange(name, 0, -1, withscores=True)  # type: ignore[misc]

        def has_outlived_its_time() -> bool:
            guarded.http.get("/v1/models", headers=as_("narrow"))  # forgets what has expired
            expires = redis.zscore(name, member)
            assert expires is not None, "it is counted all the time"
            return bool(expires >= first + 4)  # type: ignore[operator]

        until(has_outlived_its_time)


def test_without_redis_nothing_is_limited(
    settings: ApiSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, line = new_key("narrow", scopes="read", max_requests=0)
    (tmp_path / "keys").write_text(line)
    away = {"api_keys_file": tmp_path / "keys", "redis_url": f"unix://{tmp_path}/no-such-socket"}
    with serving(settings.model_copy(update=away)) as running:
        headers = {"Authorization": f"Bearer {secret}"}
        answers = [running.http.get("/v1/models", headers=headers).status_code for _ in range(3)]
    assert answers == [200] * 3
    assert caplog.text.count("API keys are not limited") == 1


class RedisThatIsAway:
    """Counts how often it is asked; it may come back, and then refuses."""

    calls, is_away = 0, True

    async def eval(self, *_: object) -> int:
        self.calls += 1
        if self.is_away:
            raise OSError("gone")
        return 0


def test_after_a_failure_redis_is_left_alone_for_two_seconds_and_a_warning_comes_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s, redis = 1000.0, RedisThatIsAway()

    async def run() -> None:
        nonlocal now_s
        limits = KeyLimits("redis://127.0.0.1:1/0", clock=lambda: now_s)
        monkeypatch.setattr(limits, "_redis", redis)
        for at_s, calls, warnings in (
            (1000.0, 1, 1),
            (1001.9, 1, 1),
            (1002.0, 2, 1),
            (1059.9, 3, 1),
            (1061.9, 4, 2),
            (1121.9, 5, 3),
        ):
            now_s = at_s
            async with limits.hold(REQUESTS_OF_KEY, "key", 0):  # nothing is limited
                assert (redis.calls, len(caplog.records)) == (calls, warnings)
        redis.is_away = False
        now_s = 1123.9
        with pytest.raises(Busy):
            await limits.hold(REQUESTS_OF_KEY, "key", 0).__aenter__()

    asyncio.run(run())
