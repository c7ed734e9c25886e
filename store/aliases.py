"""Aliases: names of versions of a model, such as `names@champion`, which can be moved to another version.

    aliases/<model name>/<alias>/<sequence>.json   one move: the version it points to from then on, and why

A move creates the next file, which succeeds for one of several writers; the others get a Conflict. The files
before it stay as the history, through which a rollback walks back. An alias belongs to the model's name and
points to versions of that name only.
"""

import hashlib
import logging
import re
import time
from typing import Literal

from pydantic import Field

from nextchar.models.errors import Conflict, InvalidInput, NotFound
from nextchar.store.blobs import Blobs
from nextchar.store.history import History, ImmutableRecord
from nextchar.store.ids import check_name

log = logging.getLogger("nextchar.store")

ALIAS_PATTERN = r"[A-Za-z][A-Za-z0-9._-]{0,31}"
"""Aliases begin with a letter, so none looks like a version number."""

_VERSION_LIKE = re.compile(r"(?i)v\d+|latest|newest")

Action = Literal["set", "rollback", "delete"]


class Check(ImmutableRecord):
    """What was required of a version before an alias moved to it, and that it passed."""

    name: str = Field(description="The field of `require`.")
    value: float | None = Field(None, description="The figure.")
    limit: float | None = None
    note: str | None = Field(None, description="What to know about the figure.")


class Share(ImmutableRecord):
    """Another version of a model, which gets a fraction of an alias's clients."""

    version: int
    fraction: float

    def has_client(self, alias: str, client_id: str) -> bool:
        """Return whether a client is one of them: always the same ones, of each `name@alias` others."""
        digest = hashlib.sha256(f"{alias}\n{client_id}".encode()).digest()
        return int.from_bytes(digest[:8]) / 2**64 < self.fraction


class AliasMove(ImmutableRecord):
    """One move of an alias. Times are Unix seconds.

    Attributes:
        sequence: the number of the move. version: that it points to; None: the alias is deleted. previous:
        the move that a rollback restores; None: there is none. moved_by: the name of the API key; None
        without keys. checks: what was required of the version, and passed. share: the version that some
        clients get instead.
    """

    model: str
    alias: str
    sequence: int
    action: Action
    version: int | None
    previous: int | None
    moved_at: float
    moved_by: str | None = None
    checks: tuple[Check, ...] = ()
    share: Share | None = None

    @property
    def target(self) -> str | None:
        """The `name@version` that it points to."""
        return None if self.version is None else f"{self.model}@{self.version}"


class Aliases:
    """The aliases in one storage. Safe to use from several threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._history = History(blobs, "aliases", AliasMove, digits=8, damaged="alias_damaged")

    def current(self, model: str | None = None) -> list[AliasMove]:
        """Return the newest move of each alias that is not deleted, of one model's name or of all, sorted.

        A damaged one is logged and skipped.
        """
        found = map(self._history.find, self._history.newest_paths(*[model] if model else []))
        return [move for move in found if move and move.version is not None]

    def history(self, model: str, alias: str) -> list[AliasMove]:
        """Return all moves of an alias, newest first. Raises NotFound: it never existed."""
        moves = [self._history.read(path) for path in self._paths(model, alias)]
        if not moves:
            raise no_such_alias(model, alias)
        return moves[::-1]

    def get(self, model: str, alias: str) -> AliasMove:
        """Return the newest move of an alias. Raises NotFound: there is no such alias, or it is deleted."""
        move = self.newest(model, alias)
        if move is None or move.version is None:
            raise no_such_alias(model, alias)
        return move

    def newest(self, model: str, alias: str) -> AliasMove | None:
        """Return the newest move of an alias, also if it is deleted; None: it never existed."""
        paths = self._paths(model, alias)
        return self._history.read(paths[-1]) if paths else None

    def move(
        self,
        model: str,
        alias: str,
        version: int | None,
        *,
        after: AliasMove | None,
        action: Action = "set",
        restores: AliasMove | None = None,
        by: str | None = None,
        checks: tuple[Check, ...] = (),
        share: Share | None = None,
    ) -> AliasMove:
        """Record the next move of an alias, to a version or to None, which deletes it.

        `after` is the newest move, as the caller read it, None of a new alias; a rollback `restores` a move.

        Raises:
            InvalidInput: the alias's name is not valid (code `invalid_alias`).
            Conflict: another request has moved it since `after` (code `alias_moved`); the message has where.
        """
        check_alias(alias)
        sequence = after.sequence + 1 if after else 0
        if restores:
            previous = restores.previous
        elif after is None:
            previous = None
        else:  # a deletion is nothing that a rollback could restore
            previous = after.sequence if after.version is not None else after.previous
        move = AliasMove(
            model=model,
            alias=alias,
            sequence=sequence,
            action=action,
            version=version,
            previous=previous,
            moved_at=time.time(),
            moved_by=by,
            checks=checks,
            share=share,
        )
        if not self._history.create(sequence, move, model, alias):
            current = self.newest(model, alias)
            where = f"points to {current.target}" if current and current.target else "is deleted"
            raise Conflict(
                f"alias {alias} of {model} was moved by another request and {where} now; look at it, and send"
                " the request again if it should still move",
                code="alias_moved",
                param="alias",
            )
        return move

    def before(self, newest: AliasMove) -> AliasMove:
        """Return the move that a rollback restores. A second rollback goes one move further back.

        Raises:
            Conflict: the alias has not pointed to anything else before (code `alias_not_moved`).
        """
        if newest.previous is None:
            raise Conflict(
                f"alias {newest.alias} of {newest.model} has not pointed to another version before; move it"
                " with PUT",
                code="alias_not_moved",
                param="alias",
            )
        try:
            return self._history.read(self._history.path(newest.previous, newest.model, newest.alias))
        except FileNotFoundError:
            raise Conflict(
                f"the record of what alias {newest.alias} of {newest.model} pointed to before is deleted;"
                " move the alias with PUT",
                code="alias_not_moved",
                param="alias",
            ) from None

    def delete(self, model: str, alias: str, *, by: str | None = None) -> AliasMove:
        """Delete an alias; its history stays, and a rollback restores it. Raises NotFound, and as `move`."""
        return self.move(model, alias, None, after=self.get(model, alias), action="delete", by=by)

    def _paths(self, model: str, alias: str) -> list[str]:
        is_valid = re.fullmatch(ALIAS_PATTERN, alias) is not None
        return self._history.paths(model, alias) if is_valid and _is_name(model) else []


def check_alias(alias: str) -> str:
    """Return an alias's name if it is a valid one. Raises InvalidInput (code `invalid_alias`)."""
    if not re.fullmatch(ALIAS_PATTERN, alias) or _VERSION_LIKE.fullmatch(alias):
        raise InvalidInput(
            f"{alias!r} is not a valid alias: use 1 to 32 letters, digits, '.', '_' and '-', starting with a"
            " letter, and nothing that looks like a version, such as v3 or latest",
            code="invalid_alias",
            param="alias",
        )
    return alias


def no_such_alias(model: str, alias: str) -> NotFound:
    """Return the error for an alias that does not exist."""
    return NotFound(f"model {model} has no alias {alias!r}", code="alias_not_found", param="alias")


def _is_name(model: str) -> bool:
    try:
        return bool(check_name(model))
    except InvalidInput:
        return False
