"""Leases in Redis: one holder, renewal, expiry, and no deletion of what another process holds."""

from redis import Redis

from nextchar.store import lease

KEY = "nextchar:test-lease"


def test_a_lease_has_one_holder(redis: Redis) -> None:
    assert lease.acquire(redis, KEY, "first", 60)
    assert not lease.acquire(redis, KEY, "second", 60)
    assert not lease.acquire_or_renew(redis, KEY, "second", 60)
    assert redis.get(KEY) == "first"


def test_only_acquire_or_renew_succeeds_for_the_holder(redis: Redis) -> None:
    lease.acquire(redis, KEY, "first", 60)
    assert not lease.acquire(redis, KEY, "first", 60), "two threads of one process have the same token"
    assert lease.acquire_or_renew(redis, KEY, "first", 90)
    assert 60 < redis.ttl(KEY) <= 90


def test_a_lost_lease_is_not_renewed(redis: Redis) -> None:
    assert not lease.renew(redis, KEY, "first", 60)
    lease.acquire(redis, KEY, "second", 60)
    assert not lease.renew(redis, KEY, "first", 90)
    assert lease.renew(redis, KEY, "second", 90)
    assert 60 < redis.ttl(KEY) <= 90


def test_only_the_holder_releases_a_lease(redis: Redis) -> None:
    lease.acquire(redis, KEY, "first", 60)
    assert not lease.release(redis, KEY, "second")
    assert lease.release(redis, KEY, "first")
    assert not lease.release(redis, KEY, "first")
    assert lease.acquire(redis, KEY, "second", 60)
