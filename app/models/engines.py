"""The loaded models of one API process: loaded on first use, shared, evicted by memory.

    with engines.use("nietzsche") as model:     # blocks while it loads: call in a worker thread
        model.scorer.read(["philosophy"])

A model is reference-counted, so that neither eviction nor a new version unloads it during a request. Names
are resolved again in the background: requests are served by the known version (serve stale) until the newer
one is loaded. A damaged model fails only its own requests.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from prometheus_client import Histogram

from nextchar.app.core_settings import ServingSettings
from nextchar.app.http.limits import LOADING
from nextchar.models.errors import DomainError, NotFound
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.saved_model import SavedModel
from nextchar.store.aliases import Share
from nextchar.store.early_models import is_early
from nextchar.store.models import Models

log = logging.getLogger("nextchar.api")

RESOLVE_S = 0.5
"""A resolved name older than this is resolved again in the background: its version may be new or deleted."""

STALE_S = 2.0
"""A request waits for a name to be resolved if it was last resolved longer ago than this."""

_MAX_RESOLVED_NAMES = 10_000  # requests for names that do not exist must not grow the table

_FIRST_CHARACTER_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(eq=False)
class Loaded(LoadedModel):
    """A model in memory. Acquire it through `Engines`."""

    users: int = 0  # reference count
    used_at: float = field(default_factory=time.monotonic)

    @property
    def bytes(self) -> int:
        """The size of its weights."""
        files = self.saved.card.files
        return sum(file.bytes for name, file in files.items() if name.endswith((".onnx", ".npz")))


LoadEngine = Callable[[SavedModel], Loaded]


def load_by(settings: ServingSettings) -> LoadEngine:
    """Return what loads a saved model with the threads and limits of the settings."""
    return partial(
        Loaded.load,
        threads=settings.model_threads,
        cache_bytes=settings.state_cache_bytes,
        max_waiting=settings.max_waiting,
    )


@dataclass(frozen=True)
class EngineLoader:
    """What an application is given to make the engine and the scorer of a model, instead of `load_by`."""

    load: LoadEngine


@dataclass(frozen=True)
class _Resolved:
    exact: str  # name@version
    at: float  # time.monotonic()
    is_refreshing: bool = False
    serves_stale: bool = False  # a newer version is being loaded; this one is used until it is ready
    share: Share | None = None  # the version that some clients of an alias get instead


class Engines:
    """Resolves, loads and evicts models. Safe to use from several threads.

    Args:
        limit_bytes: above this, the least recently used models without users are evicted.
        pinned: models, by name, `name@version` or `name@alias`, that are never evicted.

    Attributes:
        served_by_alias: names that mean the version of this alias of theirs, if it exists, instead of the
            newest one, which may not have been judged yet.
    """

    def __init__(
        self, models: Models, load: LoadEngine, *, limit_bytes: int, pinned: Sequence[str] = ()
    ) -> None:
        self._models = models
        self._load = load
        self._limit_bytes = limit_bytes
        self._pinned = pinned
        self.served_by_alias: dict[str, str] = {}
        self._lock = threading.Lock()  # guards the fields below; never held while loading or closing
        self._loaded: dict[str, Loaded] = {}
        self._resolved: dict[str, _Resolved] = {}
        self._load_locks: dict[str, threading.Lock] = {}
        self._refresher = ThreadPoolExecutor(1, thread_name_prefix="refresh models")
        self._loaders = ThreadPoolExecutor(LOADING.running, thread_name_prefix="load models")
        self.first_character_s = Histogram(
            "nextchar_completion_first_character_seconds",
            "Seconds from the start of a completion on a loaded model to its first character.",
            buckets=_FIRST_CHARACTER_BUCKETS_S,
            registry=None,
        )

    @contextmanager
    def use(self, reference: str) -> Iterator[Loaded]:
        """Acquire a model for a block: `name@version`, `name@alias`, or the newest version of `name`.

        Blocks to load it.

        Raises:
            NotFound: there is no such model.
            Unavailable: it is damaged, or of a format this program does not know.
        """
        model = self.acquire(reference)
        try:
            yield model
        finally:
            self.release(model)

    @asynccontextmanager
    async def use_async(self, reference: str, *, client_id: str | None = None) -> AsyncIterator[Loaded]:
        """Do the same on the event loop; the model is loaded in a thread.

        `client_id` decides between two versions that share the clients of an alias.
        """
        model = await self.acquire_async(reference, client_id=client_id)
        try:
            yield model
        finally:
            self.release(model)

    @contextmanager
    def use_again(self, model: Loaded) -> Iterator[Loaded]:
        """Retain a model that the caller has acquired for a block that may outlive the caller's use."""
        self.retain(model)
        try:
            yield model
        finally:
            self.release(model)

    def acquire(self, reference: str) -> Loaded:
        """Acquire a model until `release`. Blocks while it loads; raises as `use`."""
        ready = self.acquire_if_loaded(reference)
        if ready:
            return ready
        resolved = self._resolve(reference)
        model = self._acquire_exact(resolved.exact)
        self._set_resolved(reference, resolved)
        return model

    async def acquire_async(self, reference: str, *, client_id: str | None = None) -> Loaded:
        """Acquire a model until `release`; it is loaded in a thread, so the event loop does not block.

        If the task is cancelled meanwhile, the model is released. `client_id` is that of `use_async`. Raises
        as `use`.
        """
        model = await self._acquire_async(reference)
        other = self._share_of(reference, client_id) if client_id is not None else None
        if other is None:
            return model
        try:
            shared = await self._acquire_async(other)
        except NotFound:  # deleted meanwhile
            return model
        except BaseException:
            self.release(model)
            raise
        self.release(model)
        return shared

    def _share_of(self, reference: str, client_id: str) -> str | None:
        """Return the version that a client gets instead of what a reference resolves to, if it does."""
        with self._lock:
            known = self._resolved.get(reference)
        if known is None or known.share is None or not known.share.has_client(reference, client_id):
            return None
        return f"{known.exact.partition('@')[0]}@{known.share.version}"

    async def _acquire_async(self, reference: str) -> Loaded:
        ready = self.acquire_if_loaded(reference)
        if ready:
            return ready
        acquiring = self._loaders.submit(self.acquire, reference)
        try:
            return await asyncio.wrap_future(acquiring)
        except asyncio.CancelledError:
            if not acquiring.cancelled():
                acquiring.add_done_callback(self._release_result)
            raise

    def _release_result(self, acquiring: Future[Loaded]) -> None:
        if acquiring.exception() is None:
            self.release(acquiring.result())

    def acquire_if_loaded(self, reference: str) -> Loaded | None:
        """Acquire a model without reading storage, or return None. Does not block the event loop."""
        now = time.monotonic()
        with self._lock:
            known = self._resolved.get(reference)
            if known is None or (now - known.at > STALE_S and not known.serves_stale):
                return None
            model = self._loaded.get(known.exact)
            if model is None:
                return None
            model.users += 1
            model.used_at = now
            must_refresh = now - known.at > RESOLVE_S and not known.is_refreshing
            if must_refresh:
                self._resolved[reference] = replace(known, is_refreshing=True)
        if must_refresh:
            with contextlib.suppress(RuntimeError):  # the application is shutting down
                self._refresher.submit(self._refresh, reference)
        return model

    def load_pinned(self) -> None:
        """Load the pinned models that exist. A failure is logged."""
        for reference in self._pinned:
            try:
                with self.use(reference):
                    pass
            except DomainError as error:
                log.warning("the pinned model %s: %s", reference, error)
            except Exception:  # such as too many open files; its first request tries again
                log.exception("the pinned model %s cannot be loaded now", reference)

    def retain(self, model: Loaded) -> Loaded:
        """Increase the reference count of a model that the caller has acquired; ends with `release`."""
        with self._lock:
            model.users += 1
        return model

    def release(self, model: Loaded) -> None:
        """Decrease the reference count."""
        with self._lock:
            model.users -= 1
            model.used_at = time.monotonic()
            is_dropped = model.users == 0 and self._loaded.get(model.reference) is not model
        if is_dropped:  # closing waits for the engine's thread, and this may be the event loop
            threading.Thread(target=model.engine.close, name=f"unload {model.reference}").start()

    def drop(self, reference: str) -> None:
        """Unload a deleted version once it has no users."""
        with self._lock:
            self._resolved.clear()
        self._unload(reference)

    def _unload(self, exact: str) -> None:
        with self._lock:
            model = self._loaded.pop(exact, None)
            is_idle = model is not None and model.users == 0
        if model and is_idle:
            model.engine.close()

    def is_deleted(self, reference: str) -> bool:
        """Return whether a `name@version` is deleted or renamed, or all versions of a name that existed.

        Raises Unavailable.
        """
        name, _, version = reference.partition("@")
        return self._models.is_deleted(name, int(version) if version.isdecimal() else None)

    def resolve_again(self, reference: str) -> None:
        """Resolve a name again at its next use, as an alias that has been moved.

        A version that is deleted from storage is evicted later.
        """
        with self._lock:
            self._resolved.pop(reference, None)

    def stats(self) -> dict[str, dict[str, float]]:
        """Return the counters of each loaded model, by `name@version`."""
        return {model.reference: model.engine.stats() for model in self._all_loaded()}

    def steps_by_batch_size(self) -> dict[str, list[int]]:
        """Return, of each loaded model, how many steps had 0, 1, 2, … sequences."""
        return {model.reference: model.engine.steps_by_batch_size() for model in self._all_loaded()}

    def _all_loaded(self) -> list[Loaded]:
        with self._lock:
            return list(self._loaded.values())

    def check_loadable(self, saved: SavedModel) -> None:
        """Load a model and close it again. Raises whatever loading it raises."""
        self._load(saved).engine.close()

    def close(self) -> None:
        """Unload everything; requests in progress fail."""
        self._refresher.shutdown(cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            loaded = list(self._loaded.values())
            self._loaded.clear()
        for model in loaded:
            model.engine.close()

    def _refresh(self, reference: str) -> None:
        """Resolve a name again, and load its version before requests are sent there."""
        with self._lock:
            known = self._resolved.get(reference)
        try:
            resolved = self._resolve(reference)
            self._serve_stale(reference, resolved.exact)
            self.release(self._acquire_exact(resolved.exact))
            self._set_resolved(reference, resolved)
        except DomainError:  # the next request finds and reports the same
            self.resolve_again(reference)
        except Exception:  # a storage failure; the next request tries again
            log.exception("resolving the name of model %s", reference)
            self.resolve_again(reference)
        if known and is_early(known.exact):
            with self._lock:
                newest = self._resolved.get(reference)
            if newest is None or newest.exact != known.exact:
                self._unload(known.exact)

    def _serve_stale(self, reference: str, new: str) -> None:
        """Until `new` is loaded, serve requests with the version before it, if that still exists."""
        with self._lock:
            known = self._resolved.get(reference)
        if known is None or known.exact == new:
            return
        with contextlib.suppress(NotFound):
            if not is_early(known.exact):  # which nothing deletes but the end of its job
                self._models.resolve(known.exact)
            with self._lock:
                if self._resolved.get(reference) == known:
                    self._resolved[reference] = replace(known, serves_stale=True)

    def _resolve(self, reference: str) -> _Resolved:
        alias = self.served_by_alias.get(reference)
        try:
            name, version, share = self._models.resolve_with_share(reference)
            move = self._models.aliases.newest(name, alias) if alias else None
            if move and move.version is not None:
                name, version = self._models.resolve(f"{name}@{alias}")
        except NotFound:
            if exact := self._models.early.resolve(reference):
                return _Resolved(exact, time.monotonic())
            self.resolve_again(reference)
            raise
        return _Resolved(f"{name}@{version}", time.monotonic(), share=share)

    def _set_resolved(self, reference: str, resolved: _Resolved) -> None:
        with self._lock:
            if len(self._resolved) >= _MAX_RESOLVED_NAMES:
                self._resolved.clear()
            self._resolved[reference] = replace(resolved, at=time.monotonic())

    def _acquire_exact(self, exact: str) -> Loaded:
        ready = self._acquire_loaded(exact)
        if ready:
            return ready
        with self._lock:
            load_lock = self._load_locks.setdefault(exact, threading.Lock())
        with load_lock:  # of several concurrent first users one loads
            ready = self._acquire_loaded(exact)
            if ready:
                return ready
            model = self._load(self._models.early.get(exact) if is_early(exact) else self._models.get(exact))
            # Register it and drop its lock in one step, or another thread could load it a second time.
            with self._lock:
                model.users += 1
                self._loaded[exact] = model
                self._load_locks.pop(exact, None)
            self._evict()
            return model

    def _acquire_loaded(self, exact: str) -> Loaded | None:
        with self._lock:
            model = self._loaded.get(exact)
            if model:
                model.users += 1
                model.used_at = time.monotonic()
            return model

    def _evict(self) -> None:
        """Unload the least recently used models without users until the rest fits into the limit."""
        with self._lock:
            total = sum(model.bytes for model in self._loaded.values())
            idle = sorted(
                (m for m in self._loaded.values() if not m.users and not self._is_pinned(m.reference)),
                key=lambda m: m.used_at,
            )
            evicted = []
            for model in idle:
                if total <= self._limit_bytes:
                    break
                total -= model.bytes
                evicted.append(self._loaded.pop(model.reference))
        for model in evicted:
            model.engine.close()

    def _is_pinned(self, exact: str) -> bool:
        """Return whether a version is pinned, or is the newest loaded version of a pinned name."""
        aliases = (self._resolved.get(reference) for reference in self._pinned if "@" in reference)
        if exact in self._pinned or any(alias is not None and alias.exact == exact for alias in aliases):
            return True
        name, _, version = exact.partition("@")
        if name not in self._pinned:
            return False
        loaded = (reference.partition("@") for reference in self._loaded)
        numbers = [int(number) for other, _, number in loaded if other == name and number.isdecimal()]
        return not version.isdecimal() or int(version) == max(numbers)
