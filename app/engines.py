"""The loaded models of one API process: loaded on first use, shared, unloaded by memory.

    with engines.use("nietzsche") as model:     # blocks while it loads: call in a worker thread
        model.engine.next("phil", top=3)

Who uses a model holds it, so neither eviction nor a new version takes it away under a request. A
damaged model fails its own requests only.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from models.errors import NotFound
from models.runtime.engine import Engine
from models.saved_model import SavedModel
from models.vocabulary import Vocabulary
from store.models import Models

RESOLVE_S = 0.5
"""How long it is remembered which version a bare name means."""

_REMEMBERED_NAMES = 10_000  # more would be somebody's invention

LoadEngine = Callable[[SavedModel], Engine]


@dataclass(eq=False)
class Loaded:
    """A model in memory. Hold it through `Engines` while you use it."""

    reference: str
    engine: Engine
    vocabulary: Vocabulary
    bytes: int  # of its weights
    holders: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Engines:
    """Finds, loads and unloads models. Safe to use from several threads.

    Args:
        models: the registry.
        load: makes an engine of a saved model.
        limit_bytes: above this much, the least recently used models that nobody holds are unloaded.
    """

    def __init__(self, models: Models, load: LoadEngine, *, limit_bytes: int) -> None:
        self._models = models
        self._load = load
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()  # guards the fields below; held for moments only
        self._loaded: dict[str, Loaded] = {}
        self._resolved: dict[str, tuple[float, str]] = {}
        self._loading: dict[str, threading.Lock] = {}

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
        with self._lock:
            loading = self._loading.setdefault(exact, threading.Lock())
        with loading:  # of several first users one loads
            ready = self._hold(exact)
            if ready:
                return ready
            try:
                model = self._read(exact)
            finally:
                with self._lock:
                    self._loading.pop(exact, None)
            with self._lock:
                model.holders += 1
                self._loaded[exact] = model
            self._evict()
            return model

    def take_if_ready(self, reference: str) -> Loaded | None:
        """Hold a model without reading storage, or return None: safe on an event loop."""
        with self._lock:
            at, exact = self._resolved.get(reference, (0.0, ""))
        return self._hold(exact) if time.monotonic() - at < RESOLVE_S else None

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
        with self._lock:
            loaded = list(self._loaded.values())
            self._loaded.clear()
        for model in loaded:
            model.engine.close()

    def _resolve(self, reference: str) -> str:
        try:
            name, version = self._models.resolve(reference)
        except NotFound:
            with self._lock:
                self._resolved.pop(reference, None)
            raise
        exact = f"{name}@{version}"
        with self._lock:
            if len(self._resolved) >= _REMEMBERED_NAMES:
                self._resolved.clear()
            self._resolved[reference] = (time.monotonic(), exact)
        return exact

    def _read(self, exact: str) -> Loaded:
        saved = self._models.get(exact)
        size = sum(file.bytes for name, file in saved.card.files.items() if name.endswith(".onnx"))
        return Loaded(exact, self._load(saved), saved.vocabulary, size)

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
                (m for m in self._loaded.values() if not m.holders),
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
