"""What a part of the service announces of itself: everything that it adds to the rest is in one object."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI

from nextchar.app.core_settings import CoreSettings
from nextchar.app.http.services import Services
from nextchar.store.blobs import Blobs


@dataclass(frozen=True)
class Folder:
    """A folder of the storage, which backups copy.

    Attributes:
        refers_to: the folders of what its records name; they are copied first, and listed last.
        moves: renaming a model gives its records other paths, so they are read when they are listed.
        is_replaced_often: it is listed last and copied first.
        choose: returns the paths to copy, of those that were listed, given those that were copied before.
    """

    name: str
    refers_to: Sequence[str] = ()
    moves: bool = False
    is_replaced_often: bool = False
    choose: Callable[[list[str], Blobs, Collection[str]], list[str]] | None = None


@dataclass(frozen=True)
class RedisKeys:
    """The keys in Redis that backups copy: those that match, but for some; a new service has some already."""

    patterns: Sequence[str] = ()
    not_copied: Sequence[str] = ()
    made_at_start: Sequence[str] = ()


@dataclass(frozen=True)
class Room:
    """A part of the service that can be taken out of `nextchar.app.rooms.ROOMS`, or added by a package.

    Attributes:
        name: of the room.
        open: builds its parts when an application starts: `services.add` makes them available to routes and
            to later rooms; `services.loops` has its background loops, `services[Metrics].register` takes its
            metrics, `services[Retention]` what it deletes when it is due, and `services.closes` what happens
            at the end.
        routers: its routes, each with its scope (`nextchar.app.http.rules`).
        settings: its settings, fields of environment variables NEXTCHAR_<FIELD>.
        is_strict: whether its routes refuse unknown query parameters; clients of other protocols send some.
        is_called_at_keystrokes: whether its routes are matched before those of others.
        folders, redis_keys: what it stores, but for what can be lost.
        mount: adds what is no route of the API, such as pages, to an application.
    """

    name: str
    open: Callable[[Services], None] = lambda _: None
    routers: Sequence[APIRouter] = ()
    settings: type[CoreSettings] = CoreSettings
    is_strict: bool = True
    is_called_at_keystrokes: bool = False
    folders: Sequence[Folder] = ()
    redis_keys: RedisKeys = RedisKeys()
    mount: Callable[[FastAPI, Any], None] = lambda _, __: None
