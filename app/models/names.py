"""What models are called by: aliases, the default model, and what other rooms keep by a model's name.

An alias is moved only to a version that exists, can be loaded and passes what the request requires. A
rollback checks only that the version still exists: it must work when everything else is wrong.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from fastapi import Request
from redis.exceptions import RedisError

from nextchar.app.access.permissions import access_of
from nextchar.app.http.services import Services
from nextchar.app.http.threads import run_in_thread
from nextchar.app.models.engines import Engines
from nextchar.app.models.schemas import AliasRequirements
from nextchar.models.errors import Conflict, DomainError, NotFound
from nextchar.models.saved_model import Card, SavedModel
from nextchar.store.aliases import AliasMove, Check, Share, check_alias, no_such_alias
from nextchar.store.calibrations import Calibrations
from nextchar.store.models import Models

_FIGURE = "validation_bits_per_character"
_ACCEPTANCE = "acceptance_over_shown"

REFRESH_S = 2.0
"""A list of models older than this is refreshed in the background."""

log = logging.getLogger("nextchar.api")


@dataclass(frozen=True)
class ShownCounts:
    """How many suggestions of a version were shown, and how many of these were accepted."""

    shown: int
    accepted: int


CompareAcceptance = Callable[[str, int, int], tuple[ShownCounts, ShownCounts]]
"""Returns the counts of two versions of a model's name on the days on which both were shown."""


@dataclass(frozen=True)
class AliasControl:
    """Moves aliases of the models in one storage.

    Attributes:
        acceptance: compares the acceptance of versions; empty if no room counts it.
    """

    models: Models
    calibrations: Calibrations
    engines: Engines
    acceptance: list[CompareAcceptance] = field(default_factory=list)

    def set(
        self,
        name: str,
        alias: str,
        version: int,
        require: AliasRequirements,
        *,
        by: str | None,
        share: Share | None = None,
        after: AliasMove | None = None,
    ) -> AliasMove:
        """Move an alias to a version, or make it; return the move, or the newest one if it is there already.

        The version of `share` gets a fraction of the clients. `after` is the newest move, if the caller has
        read it.

        Raises:
            InvalidInput: the alias's name is not valid.
            NotFound: there is no such version, or that of `share`.
            Conflict: a requirement is not met (code `alias_check_failed`), or another request moved the alias
                meanwhile (`alias_moved`).
            Unavailable: the version is damaged.
        """
        check_alias(alias)
        newest = after or self.models.aliases.newest(name, alias)
        saved = self.models.get(f"{name}@{version}")
        if newest and newest.version == version and newest.share == share:
            return newest
        checks = self._check(saved, newest, require)
        # Loaded before the move: it can be, and the first call after the move does not wait.
        with ExitStack() as loaded:
            for number in {version, share.version} if share else {version}:
                loaded.enter_context(self.engines.use(f"{name}@{number}"))
            move = self.models.aliases.move(
                name, alias, version, after=newest, by=by, checks=checks, share=share
            )
        if not self.models.is_listed(name, version):  # deleted meanwhile, before the alias protected it
            self.models.aliases.move(
                name,
                alias,
                newest.version if newest else None,
                after=move,
                action="rollback",
                restores=newest,
            )
            raise _version_not_found(name, version)
        self.engines.resolve_again(f"{name}@{alias}")
        return move

    def roll_back(self, name: str, alias: str, *, by: str | None) -> AliasMove:
        """Move an alias back to what it pointed to before; a second rollback goes one move further back.

        Raises:
            NotFound: there is no such alias.
            Conflict: it has no earlier version (code `alias_not_moved`), that is deleted
                (`alias_target_deleted`), or another request moved the alias meanwhile (`alias_moved`).
        """
        aliases = self.models.aliases
        newest = aliases.newest(name, alias)
        if newest is None:
            raise no_such_alias(name, alias)
        before = aliases.before(newest)
        if before.version is not None and not self.models.is_listed(name, before.version):
            raise Conflict(
                f"alias {alias} of {name} pointed to {before.target} before, which is deleted or renamed;"
                " move it to another version with PUT",
                code="alias_target_deleted",
                param="alias",
            )
        move = aliases.move(
            name, alias, before.version, after=newest, action="rollback", restores=before, by=by
        )
        self.engines.resolve_again(f"{name}@{alias}")
        return move

    def delete(self, name: str, alias: str, *, by: str | None) -> AliasMove:
        """Delete an alias; its history stays. Raises as `Aliases.delete`."""
        move = self.models.aliases.delete(name, alias, by=by)
        self.engines.resolve_again(f"{name}@{alias}")
        return move

    def _check(
        self, saved: SavedModel, newest: AliasMove | None, require: AliasRequirements
    ) -> tuple[Check, ...]:
        """Return the requirements that a version meets. Raises Conflict with all that it does not meet."""
        results: list[tuple[Check, str | None]] = []
        if require.max_bits_per_character is not None:
            results.append(_check_bits(saved.card, require.max_bits_per_character))
        if require.max_regression_bits is not None and (current := self._target(newest)):
            results.append(_check_regression(saved.card, current, require.max_regression_bits))
        if require.calibration:
            has_none = self.calibrations.find(saved, None) is None
            problem = "it has no calibration; make one with POST …/calibrate"
            results.append((Check(name="calibration"), problem if has_none else None))
        if require.acceptance_over_shown is not None and (current := self._target(newest)):
            results.append(self._check_acceptance(saved.card, current, require.acceptance_over_shown))
        if problems := [problem for _, problem in results if problem]:
            raise Conflict(
                f"{saved.card.reference} does not meet what is required, so the alias was not moved:"
                f" {'; '.join(problems)}",
                code="alias_check_failed",
                param="require",
            )
        return tuple(check for check, _ in results)

    def _check_acceptance(self, card: Card, current: Card, min_shown: int) -> tuple[Check, str | None]:
        """Do the same for the acceptance of its suggestions."""
        if not self.acceptance:
            return Check(name=_ACCEPTANCE), "this service counts no events of suggestions"
        new, old = self.acceptance[0](card.name, card.version, current.version)
        rates = [one.accepted / one.shown if one.shown else None for one in (new, old)]
        note = f"{new.shown:,} and {old.shown:,} suggestions on the days on which both were shown"
        problem = None
        if min(new.shown, old.shown) < min_shown or None in rates:
            problem = (
                f"its suggestions and those of {current.reference} must be shown {min_shown:,} times each on"
                f" the same days, and were {new.shown:,} and {old.shown:,} times; give it a share of the"
                " clients"
            )
        elif new.accepted * old.shown < old.accepted * new.shown:
            problem = (
                f"{rates[0]:.2%} of its suggestions were accepted and {rates[1]:.2%} of those of"
                f" {current.reference} ({note})"
            )
        return Check(name=_ACCEPTANCE, value=rates[0], limit=rates[1], note=note), problem

    def _target(self, move: AliasMove | None) -> Card | None:
        """Return the version where an alias is; None: it is nowhere, or the version is deleted."""
        if move is None or move.target is None:
            return None
        try:
            return self.models.get(move.target).card
        except NotFound:
            return None


def _check_bits(card: Card, limit: float) -> tuple[Check, str | None]:
    """Return a check of the bits per character of a version's held-out text, and the problem, if any."""
    bits = _bits(card)
    is_met = bits is not None and bits <= limit
    problem = f"its held-out text costs {_format_bits(bits)} per character, above {limit:g}"
    return Check(name="max_bits_per_character", value=bits, limit=limit), None if is_met else problem


def _check_regression(card: Card, current: Card, limit: float) -> tuple[Check, str | None]:
    """Do the same for the difference from the alias's current version."""
    bits, before = _bits(card), _bits(current)
    change = None if bits is None or before is None else bits - before
    note = None
    if current.corpus != card.corpus:
        note = f"measured on different texts: {current.reference} has another corpus"
    problem = (
        f"its held-out text costs {_format_bits(bits)} per character and that of {current.reference}, the"
        f" current version, {_format_bits(before)}: more than {limit:g} bits worse"
        f"{f' ({note})' if note else ''}"
    )
    check = Check(name="max_regression_bits", value=change, limit=limit, note=note)
    return check, None if change is not None and change <= limit else problem


def _bits(card: Card) -> float | None:
    value = card.report.get(_FIGURE)
    return float(value) if isinstance(value, int | float) else None


def _format_bits(bits: float | None) -> str:
    return "an unknown number of bits" if bits is None else f"{bits:.4g} bits"


def _version_not_found(name: str, version: int) -> NotFound:
    return NotFound(f"there is no model '{name}@{version}'", code="model_not_found", param="version")


class DefaultModel:
    """Keeps a list of the models, newest first, so that a keystroke does not wait for the storage."""

    def __init__(self, models: Models, configured: str) -> None:
        self._models = models
        self._configured = configured
        self._known: list[tuple[str, str]] = []  # name and name@version of each, newest first
        self._refreshed_at = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    async def name(self, allows: Callable[[str], bool] | None = None) -> str:
        """Return the default model's name, or its `name@version` if only that is permitted by `allows`.

        Raises:
            NotFound: there is no permitted model (code `model_not_found`).
        """
        if self._configured and (allows is None or allows(self._configured)):
            return self._configured
        if not self._known:
            await self._refresh()
        elif time.monotonic() - self._refreshed_at > REFRESH_S and (
            self._refreshing is None or self._refreshing.done()
        ):
            self._refreshing = asyncio.create_task(self._refresh())
        for references in self._known:
            for reference in references:
                if allows is None or allows(reference):
                    return reference
        raise NotFound("there is no model yet; train one first", code="model_not_found", param="model")

    async def _refresh(self) -> None:
        self._refreshed_at = time.monotonic()
        cards = await run_in_thread(self._models.all)
        self._known = [(card.name, card.reference) for card in cards]


async def model_or_default(services: Services, request: Request, name: str) -> str:
    """Return the model that a call names, or the newest accessible one if it names none.

    Raises:
        Forbidden: the caller's key does not permit the named model.
        NotFound: there is no accessible model.
    """
    access = access_of(services, request)
    if name:
        access.check_model(name)
        return name
    key = access.limited_key
    return await services[DefaultModel].name(key.allows if key else None)


class ModelFollowers(list[Callable[[str], object]]):
    """Functions that delete or move what belongs to a name without versions; each can be repeated."""

    def follow(self, name: str) -> None:
        """Call them for the name of a deleted or renamed version, now or at the next retention sweep."""
        for follow in self:
            try:
                follow(name)
            except (RedisError, DomainError) as error:
                log.warning("what belongs to the former model %s follows later: %s", name, error)
