"""Saved models: the registry, aliases, export and import, and the engines of those that are loaded."""

import threading
from functools import partial

from nextchar.app.http.services import Services
from nextchar.app.models import (
    alias_routes,
    architecture_routes,
    archive_routes,
    report_routes,
    routes,
)
from nextchar.app.models.aliases import AliasControl
from nextchar.app.models.archives import Imports
from nextchar.app.models.default_model import DefaultModel
from nextchar.app.models.engine_metrics import EngineCollector
from nextchar.app.models.engines import EngineLoader, Engines, Loaded
from nextchar.app.models.followers import ModelFollowers
from nextchar.app.operations.bounded_read import STORAGE_READ_S
from nextchar.app.operations.metrics import Gauges, Metrics
from nextchar.app.room import Folder, Room
from nextchar.store.models import Models


def _open(services: Services) -> None:
    settings, models, metrics = services.settings, services.models, services[Metrics]
    given = services.find(EngineLoader)
    load = partial(
        Loaded.load,
        threads=settings.model_threads,
        cache_bytes=settings.state_cache_bytes,
        max_waiting=settings.max_waiting,
    )
    pinned = [name.strip() for name in settings.pinned_models.split(",") if name.strip()]
    engines = services.add(
        Engines(models, given.load if given else load, limit_bytes=settings.model_cache_bytes, pinned=pinned)
    )
    services.closes(engines.close)
    services.starting.append(
        threading.Thread(target=engines.load_pinned, name="load pinned models", daemon=True).start
    )
    services.add(AliasControl(models, services.calibrations, engines))
    services.add(DefaultModel(models, settings.default_model))
    services.add(ModelFollowers())
    imports = services.add(Imports())
    services.closes(imports.close)
    metrics.register(engines.first_character_s)
    metrics.register(EngineCollector(engines))
    metrics.register(damaged_records(models))


def damaged_records(models: Models) -> Gauges:
    """Return the gauge of records that cannot be read; looking for them may take long."""
    return Gauges(
        "nextchar_damaged_records",
        "Unreadable records in storage, which are omitted from lists.",
        lambda: {("model",): len(models.scan()[1])},
        labels=("kind",),
        within_s=STORAGE_READ_S,
    )


MODELS = Room(
    "models",
    _open,
    (
        routes.router,
        alias_routes.router,
        archive_routes.router,
        report_routes.router,
        architecture_routes.router,
    ),
    folders=(
        Folder("aliases", ["model_cards"]),
        Folder("model_cards", ["model_files", "corpora"], moves=True),
        Folder("model_files"),
    ),
)
