"""Saved models: the registry, aliases, export and import, and the engines of those that are loaded."""

import threading
from collections.abc import Callable, Iterator
from functools import partial

from prometheus_client.core import HistogramMetricFamily, Metric

from nextchar.app.core_settings import CoreSettings, listed
from nextchar.app.http.services import Services
from nextchar.app.models import file_routes, routes
from nextchar.app.models.engines import EngineLoader, Engines, load_by
from nextchar.app.models.names import AliasControl, DefaultModel, ModelFollowers
from nextchar.app.operations.metrics import STORAGE_READ_S, BoundedRead, Collected, Metrics, counter, gauge
from nextchar.app.room import Folder, Room
from nextchar.store.models import Models

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

_GAUGES = {
    "weight_bytes": "memory of its weights.",
    "batch_invariant": "1 if its float32 results do not depend on what else is in the batch.",
    "active": "sequences that are being generated and prompts that are being read.",
    "waiting": "requests that wait to be admitted.",
    "cache_bytes": "memory of its cached states.",
    "cache_entries": "cached states.",
}
_COUNTERS = {
    "requests": "requests that it has started.",
    "failures": "requests that an error ended.",
    "cancelled": "requests that their clients cancelled.",
    "timeouts": "requests that ran out of time.",
    "steps": "steps in which sequences were generated.",
    "read_characters": "characters of prompts that the network has read.",
    "generated_characters": "characters that it has generated.",
    "cache_lookups": "prompts whose prefix was looked up in the state cache.",
    "cache_evictions": "states that were evicted from the cache.",
    "cache_asked_characters": "characters of prompts that were looked up in the state cache.",
    "cache_hit_characters": "characters of prompts that were found there, and not read again.",
}


def engine_metrics(engines: Engines) -> Iterator[Metric]:
    """Yield metrics per loaded model, since it was loaded."""
    loaded = engines.stats()
    yield gauge("nextchar_models_loaded", "Models in memory.", len(loaded))
    for kind, abouts in ((gauge, _GAUGES), (counter, _COUNTERS)):
        for name, about in abouts.items():
            values = {(model,): stats[name] for model, stats in loaded.items() if name in stats}
            yield kind(f"nextchar_engine_{name}", f"Of a loaded model: {about}", values, "model")
    sizes = HistogramMetricFamily(
        "nextchar_engine_batch_size",
        "Of a loaded model: sequences that are generated together in one step.",
        labels=["model"],
    )
    for model, steps in engines.steps_by_batch_size().items():
        buckets = [(str(float(size)), sum(steps[: size + 1])) for size in _BATCH_SIZES]
        buckets.append(("+Inf", sum(steps)))
        sizes.add_metric([model], buckets, sum(size * count for size, count in enumerate(steps)))
    yield sizes


class ModelSettings(CoreSettings):
    """A part of `nextchar.app.rooms.ApiSettings`."""

    pinned_models: str = ""
    """Models, by name, `name@version` or `name@alias`, separated by commas, that are loaded at the start and
    never unloaded to free memory; a bare name means its newest version."""
    default_model: str = ""
    """The model for calls that name none, such as those of editors; default: the newest."""


def _open(services: Services) -> None:
    settings, models, metrics = services.settings_of(ModelSettings), services.models, services[Metrics]
    given = services.find(EngineLoader)
    load = given.load if given else load_by(settings)
    pinned = listed(settings.pinned_models)
    engines = services.add(Engines(models, load, limit_bytes=settings.model_cache_bytes, pinned=pinned))
    services.closes(engines.close)
    services.starting.append(
        threading.Thread(target=engines.load_pinned, name="load pinned models", daemon=True).start
    )
    services.add(AliasControl(models, services.calibrations, engines))
    services.add(DefaultModel(models, settings.default_model))
    services.add(ModelFollowers())
    metrics.register(engines.first_character_s)
    metrics.register(Collected(partial(engine_metrics, engines)))
    metrics.register(Collected(damaged_records(models)))


def damaged_records(models: Models) -> Callable[[], list[Metric]]:
    """Return what reads the gauge of records that cannot be read; looking for them may take long."""
    about = "Unreadable records in storage, which are omitted from lists."
    scan = BoundedRead(models.scan, STORAGE_READ_S)
    return lambda: [gauge("nextchar_damaged_records", about, {("model",): len(scan()[1])}, "kind")]


MODELS = Room(
    "models",
    _open,
    (routes.router, routes.alias_router, file_routes.router, routes.architecture_router),
    ModelSettings,
    folders=(
        Folder("aliases", ["model_cards"]),
        Folder("model_cards", ["model_files", "corpora"], moves=True),
        Folder("model_files"),
    ),
)
