import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from nextchar.app.models import engines as engines_module
from nextchar.app.models.engines import Engines, Loaded
from nextchar.models.errors import NotFound, Unavailable
from nextchar.models.saved_model import SavedModel
from nextchar.store.jobs import EarlyModel, Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import FakeEngine, loaded, publish
from tests.app.service import until
from tests.store.test_jobs import REQUEST

SIZE = len(b"onnx of a")


@pytest.fixture
def models() -> Models:
    registry = Models(open_blobs("memory:///"))
    for name in "abc":
        publish(registry, name=name)
    return registry


class Loader:
    def __init__(self, delay_s: float = 0) -> None:
        self.loaded: list[str] = []
        self._delay_s = delay_s

    def __call__(self, saved: SavedModel) -> Loaded:
        time.sleep(self._delay_s)
        self.loaded.append(saved.card.reference)
        return loaded(saved, FakeEngine(saved))


def pool(models: Models, load: Loader, *, limit_bytes: int = 1000, pinned: Sequence[str] = ()) -> Engines:
    return Engines(models, load, limit_bytes=limit_bytes, pinned=pinned)


def test_model_is_loaded_once_for_all_who_ask_at_once(models: Models) -> None:
    load = Loader(delay_s=0.05)
    engines = pool(models, load)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(engines.acquire, ["a", "a@1"] * 4))
    assert load.loaded == ["a@1"] and len(set(map(id, found))) == 1


def test_model_that_has_just_been_loaded_is_not_loaded_again(models: Models) -> None:
    load = Loader()
    engines = pool(models, load)
    others: list[threading.Thread] = []

    class Loading(dict[str, threading.Lock]):
        """Lets another thread ask for the model just when its lock goes."""

        def pop(self, key: str, *_: None) -> threading.Lock:  # type: ignore[override]
            lock = super().pop(key)
            others.append(threading.Thread(target=engines.acquire, args=("a",)))
            others[-1].start()
            others[-1].join(0.2)
            return lock

    engines._load_locks = Loading()
    engines.acquire("a")
    for other in others:
        other.join()
    assert load.loaded == ["a@1"]


def test_least_recently_used_model_is_unloaded_above_the_limit(models: Models) -> None:
    load = Loader()
    engines = pool(models, load, limit_bytes=2 * SIZE)
    for name in "abac":
        with engines.use(name):
            pass
    assert sorted(engines.stats()) == ["a@1", "c@1"]
    with engines.use("b"):
        pass
    assert load.loaded == ["a@1", "b@1", "c@1", "b@1"]


def test_model_in_use_is_never_closed(models: Models) -> None:
    engines = pool(models, Loader(), limit_bytes=0)
    with engines.use("a") as first:
        with engines.use("b") as second:
            assert not first.engine.closed.is_set() and not second.engine.closed.is_set()  # type: ignore[attr-defined]
        with engines.use("c"):
            assert second.engine.closed.is_set()  # type: ignore[attr-defined]
            engines.drop("a@1")
            assert not first.engine.closed.is_set()  # type: ignore[attr-defined]
    until(first.engine.closed.is_set)  # type: ignore[attr-defined]


def test_damaged_model_fails_every_time_and_loads_once_repaired() -> None:
    blobs = open_blobs("memory:///")
    card = publish(Models(blobs), name="a")
    path = f"model_files/{card.id}/model.onnx"
    good = blobs.read(path)
    blobs.write(path, b"bad")
    engines = pool(Models(blobs), Loader())
    for _ in range(2):
        with pytest.raises(Unavailable):
            engines.acquire("a")
    blobs.write(path, good)
    engines.acquire("a")


def test_pinned_models_are_loaded_at_the_start_and_stay(models: Models) -> None:
    load = Loader()
    engines = pool(models, load, limit_bytes=0, pinned=["a", "b@1", "nobody"])
    engines.load_pinned()
    assert load.loaded == ["a@1", "b@1"]
    for _ in range(2):
        with engines.use("c"):
            pass
    assert sorted(engines.stats()) == ["a@1", "b@1", "c@1"]


def test_requests_go_on_with_the_old_version_while_the_new_one_loads(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, may_load = threading.Event(), threading.Event()

    class Slow(Loader):
        def __call__(self, saved: SavedModel) -> Loaded:
            if saved.card.reference == "a@2":
                loads.set()
                assert may_load.wait(120), "a request has waited for the new version"
            return super().__call__(saved)

    engines = pool(models, Slow(), limit_bytes=1000)
    assert _reference(engines) == "a@1"
    publish(models, name="a")
    monkeypatch.setattr(engines_module, "RESOLVE_S", 0.05)
    monkeypatch.setattr(engines_module, "STALE_S", 0.1)

    def is_loading() -> bool:
        assert _reference(engines) == "a@1"
        return loads.is_set()

    until(is_loading)
    since = time.monotonic()
    while time.monotonic() - since < 3 * engines_module.STALE_S:  # however old the answer becomes
        assert _reference(engines) == "a@1"
    may_load.set()
    until(lambda: _reference(engines) == "a@2")


def test_version_deleted_by_another_process_is_soon_unknown(models: Models) -> None:
    engines = pool(models, Loader())
    engines.release(engines.acquire("b"))
    models.delete("b")

    def is_gone() -> bool:
        try:
            engines.release(engines.acquire("b"))
        except NotFound:
            return True
        return False

    until(is_gone)


def _reference(engines: Engines) -> str:
    with engines.use("a") as model:
        return model.reference


def test_model_acquired_by_a_cancelled_request_is_released(models: Models) -> None:
    go_on = threading.Event()

    class Slow(Loader):
        def __call__(self, saved: SavedModel) -> Loaded:
            assert go_on.wait(120)
            return super().__call__(saved)

    load = Slow()
    engines = pool(models, load)

    async def leave() -> None:
        taking = [asyncio.create_task(engines.acquire_async("a")) for _ in range(9)]  # > LOADING.running
        await asyncio.sleep(0.01)
        for task in taking[1:]:
            task.cancel()
        go_on.set()
        engines.release(await taking[0])

    asyncio.run(leave())

    def is_held_by_nobody_else() -> bool:
        with engines.use("a") as model:
            return model.users == 1

    until(is_held_by_nobody_else)
    assert load.loaded == ["a@1"]


def test_a_name_that_was_resolved_long_ago_is_not_answered_without_storage(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = pool(models, Loader())
    engines.release(engines.acquire("a"))
    model = engines.acquire_if_loaded("a")
    assert model is not None
    engines.release(model)
    monkeypatch.setattr(engines_module, "STALE_S", -1.0)
    assert engines.acquire_if_loaded("a") is None


def test_an_early_model_serves_until_the_version_is_loaded_and_is_then_unloaded(models: Models) -> None:
    blobs = models._blobs
    jobs, load = Jobs(blobs), Loader()
    request = REQUEST.model_copy(update={"name": "new"})
    job = jobs.move(jobs.create(request), JobStatus.RUNNING, attempt=1)
    saved = models.get("a")
    card = saved.card.model_copy(update={"name": "new", "job": job.id, "report": {"is_early": True}})
    models.early.write(job, card, {name: saved.file(name) for name in card.files})
    engines = pool(models, load, pinned=["new"])
    with pytest.raises(NotFound), engines.use("new"):
        pass
    job = jobs.move(job, JobStatus.RUNNING, early=EarlyModel(attempt=1, since=1.0))
    early = f"new@{job.id}"
    with engines.use("new") as one, engines.use(early) as same:
        assert one is same and one.reference == early
        with pytest.raises(NotFound, match="still being trained"):
            one.scorer  # noqa: B018
    publish(models, name="new")
    jobs.move(job, JobStatus.SUCCEEDED, model="new@1")
    for name in ("new", early):
        until(lambda name=name: reference_of(engines, name) == "new@1")
    until(lambda: early not in engines.stats())
    assert load.loaded == [early, "new@1"]


def reference_of(engines: Engines, name: str) -> str:
    with engines.use(name) as model:
        return model.reference
