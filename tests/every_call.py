"""Something happens at one call of a storage or of Redis: at every call of a scenario in turn.

    for call in every_call(more_than=5):
        blobs = open_blobs("memory:///")
        corpus = add(Corpora(blobs))
        with call.dying():
            Corpora(call.blobs(blobs)).delete(corpus)
        assert Corpora(blobs).delete(corpus) == corpus, call

The first round has it before the first call, and so on; in the last round there are not so many calls.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis import ConnectionPool, Redis
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import Blobs


class Killed(BaseException):
    """Ends a process at a call."""


def die() -> None:
    """Raise Killed."""
    raise Killed


class Call:
    """The call number `at`, counted from 0, of one round; before it, or after it, `meanwhile` is done."""

    def __init__(self, at: int, meanwhile: Callable[[], object] = die, *, is_after: bool = False) -> None:
        self.at, self.meanwhile, self.is_after = at, meanwhile, is_after
        self.is_armed = True  # or calls are not counted
        self.has_come = False
        self.count = 0  # of calls so far, up to the one

    def __repr__(self) -> str:
        return f"{'after' if self.is_after else 'before'} call {self.at}"

    def blobs(self, blobs: Blobs, meanwhile: Callable[[], object] | None = None) -> Blobs:
        """Return a storage whose calls count."""
        self.meanwhile = meanwhile or self.meanwhile
        return Interrupted(blobs, self)

    def redis(self, redis: Redis) -> Redis:
        """Return a client of the same Redis whose commands and pipelines count."""
        return Redis(connection_pool=_CountingPool(self, redis.connection_pool))

    @contextlib.contextmanager
    def dying(self) -> Iterator[None]:
        """Run the block as a process that is killed at the call."""
        with contextlib.suppress(Killed):
            yield

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Count a call that is made in the block, with what happens at it."""
        is_the_one = self.begin()
        try:
            yield
        finally:
            self.end(is_the_one)

    def begin(self) -> bool:
        """Count a call; return whether it is the one."""
        if not self.is_armed or self.has_come:
            return False
        self.has_come = self.count == self.at
        self.count += 1
        if self.has_come and not self.is_after:
            self.meanwhile()
        return self.has_come

    def end(self, is_the_one: bool) -> None:
        """End a call."""
        if is_the_one and self.is_after:
            self.meanwhile()


def every_call(
    *,
    more_than: int,
    step: int = 1,
    first: int = 0,
    meanwhile: Callable[[], object] = die,
    is_after: bool = False,
) -> Iterator[Call]:
    """Yield a call for each round, each `step`-th, until a round has no such call.

    The test fails if there were not more calls than `more_than`: then nothing was tried.
    """
    for at in itertools.count(first, step):
        call = Call(at, meanwhile, is_after=is_after)
        yield call
        if not call.has_come:
            assert at > more_than, f"a round has only {at} calls"
            return


def storage_fails() -> None:
    """Raise what a storage raises that does not answer."""
    raise Unavailable("the storage does not work: no answer", code="storage_unavailable")


def redis_fails() -> None:
    """Raise what Redis' client raises when the connection breaks."""
    raise RedisConnectionError("it broke")


class Interrupted(Blobs):
    """A storage whose calls count."""

    def __init__(self, blobs: Blobs, call: Call) -> None:
        self._blobs, self.call = blobs, call

    def read(self, path: str) -> bytes:
        with self.call.passing():
            return self._blobs.read(path)

    def stream(self, path: str, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        with self.call.passing():
            return self._blobs.stream(path, chunk_bytes)

    def read_range(self, path: str, start: int, end: int) -> bytes:
        with self.call.passing():
            return self._blobs.read_range(path, start, end)

    def write(self, path: str, data: bytes | Path) -> None:
        with self.call.passing():
            self._blobs.write(path, data)

    def create(self, path: str, data: bytes) -> bool:
        with self.call.passing():
            return self._blobs.create(path, data)

    def copy(self, source: str, path: str) -> bool:
        with self.call.passing():
            return self._blobs.copy(source, path)

    def exists(self, path: str) -> bool:
        with self.call.passing():
            return self._blobs.exists(path)

    def paths(self, prefix: str) -> list[str]:
        with self.call.passing():
            return self._blobs.paths(prefix)

    def folders(self, prefix: str) -> list[str]:
        with self.call.passing():
            return self._blobs.folders(prefix)

    def delete(self, *paths: str) -> None:
        with self.call.passing():
            self._blobs.delete(*paths)


class _CountingPool(ConnectionPool):
    """A pool of connections of its own, whose every use is a call."""

    def __init__(self, call: Call, pool: ConnectionPool) -> None:
        super().__init__(pool.connection_class, **pool.connection_kwargs)
        self._call, self._in_the_one = call, set[Any]()

    def get_connection(self, *arguments: Any, **options: Any) -> AbstractConnection:
        is_the_one = self._call.begin()
        connection = super().get_connection(*arguments, **options)
        if is_the_one:
            self._in_the_one.add(connection)
        return connection

    def release(self, connection: AbstractConnection) -> None:
        super().release(connection)
        is_the_one = connection in self._in_the_one
        self._in_the_one.discard(connection)
        self._call.end(is_the_one)
