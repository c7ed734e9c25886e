"""The rooms of the service, each after those that it needs, and the settings that they have together."""

import threading
from collections.abc import Sequence
from graphlib import TopologicalSorter
from importlib.metadata import entry_points

from pydantic import create_model

from nextchar.app.acceptance.room import ACCEPTANCE, AcceptanceSettings
from nextchar.app.access.auth import ACCESS
from nextchar.app.completions.routes import COMPLETIONS
from nextchar.app.console.routes import CONSOLE
from nextchar.app.core_settings import CoreSettings
from nextchar.app.corpora.routes import CORPORA
from nextchar.app.http.services import Services
from nextchar.app.jobs.room import JOBS
from nextchar.app.logs.configuration import LogSettings
from nextchar.app.logs.room import LOGS
from nextchar.app.models.room import MODELS, ModelSettings
from nextchar.app.openai.room import OPENAI
from nextchar.app.operations.retention import RetentionSettings
from nextchar.app.operations.room import OPERATIONS
from nextchar.app.room import Folder, Room
from nextchar.app.scoring.routes import SCORING, ScoringSettings
from nextchar.app.suggestions.routes import SUGGESTIONS

ENTRY_POINTS = "nextchar.rooms"
"""The group of entry points by which an installed package adds rooms; each names a `Room`."""

ROOMS = (
    OPERATIONS,
    ACCESS,
    CORPORA,
    MODELS,
    JOBS,
    COMPLETIONS,
    SUGGESTIONS,
    SCORING,
    LOGS,
    OPENAI,
    ACCEPTANCE,
    CONSOLE,
)


def all_rooms() -> tuple[Room, ...]:
    """Return the rooms of the service and those of installed packages."""
    return (*ROOMS, *(found.load() for found in entry_points(group=ENTRY_POINTS)))


def settings_class(rooms: Sequence[Room]) -> type[CoreSettings]:
    """Return the class of the settings that these rooms have together."""
    kinds = dict.fromkeys(room.settings for room in rooms if room.settings is not CoreSettings)
    return create_model("ApiSettings", __base__=tuple(kinds) or CoreSettings)


def all_folders(rooms: Sequence[Room]) -> list[Folder]:
    """Return the folders of the storage: those that refer to others before what they refer to."""
    folders = {folder.name: folder for room in rooms for folder in room.folders}
    referred_first = TopologicalSorter({name: folders[name].refers_to for name in folders}).static_order()
    ordered = [folders[name] for name in reversed(list(referred_first))]
    return sorted(ordered, key=lambda folder: folder.is_replaced_often)


def open_rooms(
    rooms: Sequence[Room],
    settings: CoreSettings,
    *given: object,
    stopping: threading.Event,
    kernels_loaded: threading.Event | None = None,
) -> Services:
    """Return the services of an application with these rooms; `given` are parts that come from outside.

    Raises:
        OSError, DomainError: the data folder or the storage cannot be used.
    """
    services = Services(settings, stopping=stopping, kernels_loaded=kernels_loaded)
    for part in given:
        services.add(part)
    for room in rooms:
        room.open(services)
    return services


class ApiSettings(LogSettings, AcceptanceSettings, ModelSettings, RetentionSettings, ScoringSettings):
    """Read from the environment by `load`; pass values by keyword in tests."""
