"""Aliases of model versions."""

from collections.abc import AsyncGenerator

from nextchar.connection import LONG_TIMEOUT_S, Connection, omit_none, path_of
from nextchar.types import Alias, AliasWithHistory


class AliasCalls(Connection):
    """Aliases of model versions."""

    def aliases(self, model: str) -> AsyncGenerator[Alias, None]:
        """Yield the aliases of a model's name, such as `champion`; calls take them as `name@champion`."""
        return self._pages(path_of("models", model, "aliases"))

    async def alias(self, model: str, alias: str) -> AliasWithHistory:
        """Return an alias of a model's name, with its history."""
        return await self._get(AliasWithHistory, path_of("models", model, "aliases", alias))

    async def set_alias(
        self,
        model: str,
        alias: str,
        version: int,
        *,
        max_bits_per_character: float | None = None,
        max_regression_bits: float | None = None,
        calibration: bool | None = None,
    ) -> Alias:
        """Move an alias of a model's name to a version, or make it.

        Args:
            model: the model's name.
            alias: its alias.
            version: that the alias points to from then on.
            max_bits_per_character: the most that the version's held-out text may cost.
            max_regression_bits: by how many it may be worse than the alias's current version.
            calibration: whether the version must have a calibration.

        Raises:
            Conflict: the version does not meet this (code `alias_check_failed`), or another request moved the
                alias meanwhile (`alias_moved`).
        """
        require = omit_none(
            max_bits_per_character=max_bits_per_character,
            max_regression_bits=max_regression_bits,
            calibration=calibration,
        )
        body = {"version": version, "require": require}
        path = path_of("models", model, "aliases", alias)
        return await self._fetch(Alias, "PUT", path, json=body, can_retry=True, timeout_s=LONG_TIMEOUT_S)

    async def roll_back_alias(self, model: str, alias: str) -> Alias:
        """Move an alias back to what it pointed to before; a second call goes one move further back."""
        return await self._fetch(Alias, "POST", path_of("models", model, "aliases", alias, "rollback"))

    async def delete_alias(self, model: str, alias: str) -> Alias:
        """Delete an alias; `roll_back_alias` restores it."""
        return await self._fetch(Alias, "DELETE", path_of("models", model, "aliases", alias))
