"""What is read again, when, and how much is kept."""

import pytest

from nextchar.store.expiring_cache import ExpiringCache
from tests.store.clock import Clock


class Source:
    """Something in the storage, with a clock, and the keys that were read."""

    def __init__(self) -> None:
        self.clock, self.value = Clock(), 1
        self.keys: list[str] = []

    def cache(self, **options: float) -> ExpiringCache[int]:
        return ExpiringCache(2.0, clock=self.clock, size_of=lambda value: value, **options)

    def read(self, cache: ExpiringCache[int], key: str = "a") -> int:
        return cache.get(key, lambda _: self.keys.append(key) or self.value)  # type: ignore[func-returns-value]


@pytest.fixture
def source() -> Source:
    return Source()


def test_a_value_is_read_again_after_its_time(source: Source) -> None:
    cache = source.cache()
    assert source.read(cache) == 1
    source.value = 2
    source.clock.now_s += 1.99
    assert source.read(cache) == 1
    source.clock.now_s += 0.01
    assert source.read(cache) == 2 and len(source.keys) == 2


def test_what_is_changed_while_it_is_read_is_read_again(source: Source) -> None:
    cache = source.cache()

    def read(_: int | None) -> int:
        cache.forget("a")  # another thread has changed it
        return 1

    assert cache.get("a", read) == 1
    source.value = 2
    assert source.read(cache) == 2


def test_more_than_the_size_is_not_kept(source: Source) -> None:
    cache = source.cache(max_size=3)
    for key in "abc":
        source.read(cache, key)
    source.value = 2
    source.read(cache, "d")  # now they are 5
    for key in "da":
        source.read(cache, key)
    assert source.keys == [*"abcd", "a"]
