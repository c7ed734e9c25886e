"""An alias is moved only if the suggestions of the new version are accepted as often."""

from typing import Any

import httpx
from redis import Redis

from tests.app.fakes import publish
from tests.app.service import Service, error_of

ALIAS = "/v1/models/fake/aliases/live"


def use(service: Service, version: int, *, shown: int, accepted: int) -> None:
    """Have suggestions of a version shown, and some of them accepted."""
    events = [
        {"id": f"{kind} {version} {n}", "type": kind, "suggestion_id": f"{n}", "model": f"fake@{version}"}
        for kind, count in (("shown", shown), ("accepted", accepted))
        for n in range(count)
    ]
    assert service.http.post("/v1/events", json={"events": events}).status_code == 202


def move(service: Service, version: int) -> httpx.Response:
    return service.http.put(ALIAS, json={"version": version, "require": {"acceptance_over_shown": 40}})


def refused(service: Service, version: int) -> str:
    error = error_of(move(service, version), 409)
    assert error["code"] == "alias_check_failed"
    return error["message"]


def test_an_alias_moves_only_if_acceptance_over_enough_suggestions_is_not_lower(service: Service) -> None:
    for _ in range(3):
        publish(service.models)
    assert move(service, 1).is_success, "there is no version to compare with"
    use(service, 1, shown=50, accepted=10)
    assert "were 0 and 0 times" in refused(service, 2)
    use(service, 2, shown=39, accepted=39)
    assert "were 39 and 50 times" in refused(service, 2)
    use(service, 3, shown=100, accepted=19)
    assert "19.00% of its suggestions were accepted and 20.00% of those of fake@1" in refused(service, 3)
    use(service, 3, shown=100, accepted=20)
    moved: dict[str, Any] = move(service, 3).json()
    [check] = moved["checks"]
    assert (moved["version"], check["value"], check["limit"]) == (3, 0.2, 0.2)
    assert check["note"] == "100 and 50 suggestions on the days on which both were shown"


def test_only_days_on_which_both_were_shown_are_compared(service: Service, clean_redis_url: str) -> None:
    for _ in range(2):
        publish(service.models)
    assert move(service, 1).is_success
    use(service, 1, shown=100, accepted=90)  # on a good day, before the other version
    with Redis.from_url(clean_redis_url, decode_responses=True) as redis:
        [day] = redis.scan_iter("nextchar:acceptance:day:fake:*")
        redis.rename(day, day[:-5] + str(int(day[-5:]) - 1))
        redis.delete("nextchar:acceptance:new")
    use(service, 1, shown=50, accepted=10)
    use(service, 2, shown=50, accepted=12)
    assert move(service, 2).is_success
