"""The loaded models of one API process: loaded on first use, shared, unloaded by memory.

    with engines.use("nietzsche") as model:     # blocks while it loads: call in a worker thread
        model.engine.next("phil", top=3)

Who uses a model holds it, so neither eviction nor a new version takes it away under a request. What a bare
name means is looked up again beside the requests: they go on with the version they know until the new one
is loaded. A damaged model fails its own requests only.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from models.errors import DomainError, NotFound
from models.runtime.engine import Engine
from models.saved_model import SavedModel
from models.text.masks import Masks
from models.text.vocabulary import Vocabulary
from store.models import Models

log = logging.getLogger("nextchar.api")

RESOLVE_S = 0.5
"""After this long it is looked up again which version a name means, and whether it is still there."""

STALE_S = 2.0
"""After this long without a look, a request waits for it."""

_LOADERS = 8  # threads in which requests wait for models to be loaded
_REMEMBERED_NAMES = 10_000  # more would be somebody's invention

LoadEngine = Callable[[SavedModel], Engine]


@dataclass(eq=False)
class Loaded:
    """A model in memory. Hold it through `Engines` while you use it."""

    reference: str
    engine: Engine
    vocabulary: Vocabulary
    bytes: int  # of its weights
    saved: SavedModel
    masks: Masks
    holders: int = 0
    used_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Resolved:
    exact: str
    at: float  # time.monotonic()
    is_refreshing: bool = False
    next_is_loading: bool = False  # a newer version; this one goes on until it is ready


class Engines:
    """Finds, loads and unloads models. Safe to use from several threads.

    Args:
        models: the registry.
        load: makes an engine of a saved model.
        limit_bytes: above this much, the least recently used models that nobody holds are unloaded.
        pinned: models, by name or `name@version`, that are never unloaded to make room.
    """

    def __init__(
        self, models: Models, load: LoadEngine, *, limit_bytes: int, pinned: Sequence[str] = ()
    ) -> None:
        self._models = models
        self._load = load
        self._limit_bytes = limit_bytes
        self._pinned = pinned
        self._lock = threading.Lock()  # guards the fields below; held for moments only
        self._loaded: dict[str, Loaded] = {}
        self._resolved: dict[str, _Resolved] = {}
        self._loading: dict[str, threading.Lock] = {}
        self._refresher = ThreadPoolExecutor(1, thread_name_prefix="refresh models")
        self._loaders = ThreadPoolExecutor(_LOADERS, thread_name_prefix="load models")

    @contextmanager
    def use(self, reference: str) -> Iterator[Loaded]:
        """Hold the model `name@version`, or the newest version of `name`; it is loaded if need be.

        Raises:
            NotFound: there is no such model.
            Unavailable: it is damaged, or of a format this program does not know.
        """
        model = self.take(reference)
        try:
            yield model
        finally:
            self.give_back(model)

    def take(self, reference: str) -> Loaded:
        """Hold a model until `give_back`. Blocks while it loads; raises as `use`."""
        ready = self.take_if_ready(reference)
        if ready:
            return ready
        exact = self._resolve(reference)
        model = self._take_exact(exact)
        self._remember(reference, exact)
        return model

    async def take_async(self, reference: str) -> Loaded:
        """Hold a model until `give_back`; it is loaded in a thread, so that the event loop does not block.

        When the task is cancelled meanwhile, nothing is held. Raises as `use`.
        """
        ready = self.take_if_ready(reference)
        if ready:
            return ready
        taking = self._loaders.submit(self.take, reference)
        try:
            return await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            if not taking.cancelled():
                taking.add_done_callback(self._give_back_unused)
            raise

    def _give_back_unused(self, taking: Future[Loaded]) -> None:
        if taking.exception() is None:
            self.give_back(taking.result())

    def take_if_ready(self, reference: str) -> Loaded | None:
        """Hold a model without reading storage, or return None: safe on an event loop."""
        now = time.monotonic()
        with self._lock:
            known = self._resolved.get(reference)
            if known is None or (now - known.at > STALE_S and not known.next_is_loading):
                return None
            model = self._loaded.get(known.exact)
            if model is None:
                return None
            model.holders += 1
            model.used_at = now
            refresh = now - known.at > RESOLVE_S and not known.is_refreshing
            if refresh:
                self._resolved[reference] = replace(known, is_refreshing=True)
        if refresh:
            with contextlib.suppress(RuntimeError):  # the application is ending
                self._refresher.submit(self._refresh, reference)
        return model

    def load_pinned(self) -> None:
        """Load the pinned models that are there. One that cannot be loaded is a line in the log."""
        for reference in self._pinned:
            try:
                with self.use(reference):
                    pass
            except DomainError as error:
                log.warning("the pinned model %s: %s", reference, error)
            except Exception:  # such as too many open files; its first request tries again
                log.exception("the pinned model %s cannot be loaded now", reference)

    def hold_again(self, model: Loaded) -> Loaded:
        """Hold once more a model that the caller holds."""
        with self._lock:
            model.holders += 1
        return model

    def give_back(self, model: Loaded) -> None:
        """End a hold."""
        with self._lock:
            model.holders -= 1
            model.used_at = time.monotonic()
            dropped = model.holders == 0 and self._loaded.get(model.reference) is not model
        if dropped:  # closing waits for the engine's thread, and this may be the event loop
            threading.Thread(target=model.engine.close, name=f"unload {model.reference}").start()

    def drop(self, reference: str) -> None:
        """Forget a deleted version: unload it once nobody holds it."""
        with self._lock:
            model = self._loaded.pop(reference, None)
            self._resolved.clear()
            idle = model is not None and model.holders == 0
        if model and idle:
            model.engine.close()

    def stats(self) -> dict[str, dict[str, float]]:
        """Return the counters of each loaded model, by `name@version`."""
        with self._lock:
            loaded = list(self._loaded.values())
        return {model.reference: model.engine.stats() for model in loaded}

    def close(self) -> None:
        """Unload everything; requests under way end with a failure."""
        self._refresher.shutdown(cancel_futures=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            loaded = list(self._loaded.values())
            self._loaded.clear()
        for model in loaded:
            model.engine.close()

    def _refresh(self, reference: str) -> None:
        """Look a name up again, and load what it means now before anybody is sent there."""
        try:
            exact = self._resolve(reference)
            self._go_on_with_old(reference, exact)
            self.give_back(self._take_exact(exact))
            self._remember(reference, exact)
        except DomainError:  # the next request finds the same, and says so
            self._forget(reference)
        except Exception:  # storage that hiccups; the next request tries again
            log.exception("looking model %s up again", reference)
            self._forget(reference)

    def _go_on_with_old(self, reference: str, new: str) -> None:
        """Until `new` is loaded, let requests have the version before it, if that is still there."""
        with self._lock:
            known = self._resolved.get(reference)
        if known is None or known.exact == new:
            return
        with contextlib.suppress(NotFound):
            self._models.resolve(known.exact)
            with self._lock:
                if self._resolved.get(reference) == known:
                    self._resolved[reference] = replace(known, next_is_loading=True)

    def _resolve(self, reference: str) -> str:
        try:
            name, version = self._models.resolve(reference)
        except NotFound:
            self._forget(reference)
            raise
        return f"{name}@{version}"

    def _remember(self, reference: str, exact: str) -> None:
        with self._lock:
            if len(self._resolved) >= _REMEMBERED_NAMES:
                self._resolved.clear()
            self._resolved[reference] = _Resolved(exact, time.monotonic())

    def _forget(self, reference: str) -> None:
        """Forget what a name meant; a version that is gone from storage is unloaded by and by."""
        with self._lock:
            self._resolved.pop(reference, None)

    def _take_exact(self, exact: str) -> Loaded:
        ready = self._hold(exact)
        if ready:
            return ready
        with self._lock:
            loading = self._loading.setdefault(exact, threading.Lock())
        with loading:  # of several first users one loads
            ready = self._hold(exact)
            if ready:
                return ready
            model = self._read(exact)
            with self._lock:  # at once: who finds neither the lock nor the model would load it again
                model.holders += 1
                self._loaded[exact] = model
                self._loading.pop(exact, None)
            self._evict()
            return model

    def _read(self, exact: str) -> Loaded:
        saved = self._models.get(exact)
        size = sum(file.bytes for name, file in saved.card.files.items() if name.endswith((".onnx", ".npz")))
        return Loaded(exact, self._load(saved), saved.vocabulary, size, saved, Masks(saved.card.masks))

    def _hold(self, exact: str) -> Loaded | None:
        with self._lock:
            model = self._loaded.get(exact)
            if model:
                model.holders += 1
                model.used_at = time.monotonic()
            return model

    def _evict(self) -> None:
        with self._lock:
            total = sum(model.bytes for model in self._loaded.values())
            idle = sorted(
                (m for m in self._loaded.values() if not m.holders and not self._is_pinned(m.reference)),
                key=lambda m: m.used_at,
            )
            gone = []
            for model in idle:
                if total <= self._limit_bytes:
                    break
                total -= model.bytes
                gone.append(self._loaded.pop(model.reference))
        for model in gone:
            model.engine.close()

    def _is_pinned(self, exact: str) -> bool:
        """Whether a version is pinned, or is the newest that is loaded of a pinned name."""
        if exact in self._pinned:
            return True
        name, _, version = exact.partition("@")
        if name not in self._pinned:
            return False
        loaded = (reference.partition("@") for reference in self._loaded)
        return int(version) == max(int(number) for other, _, number in loaded if other == name)
