"""Both clients with blocking methods, so that one test can promise the same of each."""

import asyncio
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nextchar import AsyncClient, AsyncTrainingJob, Client

KINDS = ("blocking", "asyncio")


@contextmanager
def connected(kind: str, *arguments: Any, **options: Any) -> Iterator[Any]:
    """Yield a client of one kind."""
    if kind == "blocking":
        with Client(*arguments, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        waiting = AsyncClient(*arguments, **options)
        yield _Blocking(waiting, runner)
        runner.run(waiting.aclose())


class _Blocking:
    """An object whose coroutines are waited for and whose asynchronous generators are generators."""

    def __init__(self, target: Any, runner: asyncio.Runner) -> None:
        self._target, self._runner = target, runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.isroutine(value):
            return value

        @functools.wraps(value)
        def call(*arguments: Any, **options: Any) -> Any:
            return self._waited(value(*arguments, **options))

        return call

    def __iter__(self) -> Iterator[Any]:
        return self._iterated(self._target.__aiter__())

    def _waited(self, value: Any) -> Any:
        if inspect.isasyncgen(value):
            return self._iterated(value)
        if inspect.iscoroutine(value):
            value = self._runner.run(value)
        return _Blocking(value, self._runner) if isinstance(value, AsyncTrainingJob) else value

    def _iterated(self, values: Any) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(values, _END)

        try:
            while (value := self._runner.run(following())) is not _END:
                yield value
        finally:
            self._runner.run(values.aclose())


_END = object()
