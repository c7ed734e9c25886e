"""Models: list, rename, delete, download, export and import them; their reports and aliases."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import IO, Any, Literal, Unpack, cast

from nextchar.connection import LONG_TIMEOUT_S, Connection, is_exact, omit_none, path_of
from nextchar.options import AliasOptions
from nextchar.types import Alias, AliasWithHistory, DamagedModel, Model, ModelSummary
from nextchar.upload import upload_body


class ModelCalls(Connection):
    """Models: list, rename, delete, download, export and import them; their reports and aliases."""

    def models(self) -> AsyncGenerator[ModelSummary, None]:
        """Yield all versions of all models, newest first."""
        return self._pages("/v1/models")

    async def damaged_models(self) -> list[DamagedModel]:
        """Return the versions that are missing from the list because their cards cannot be read."""
        page = await self._get(dict[str, Any], "/v1/models", limit=1)
        return cast(list[DamagedModel], page.get("damaged", []))

    async def model(self, model: str) -> Model:
        """Return the card of `name@version`, `name@alias`, or of the newest version of `name`."""
        return await self._get(Model, path_of("models", model))

    async def rename_model(self, model: str, name: str, *, force: bool = False) -> Model:
        """Rename one version: it becomes the next version of `name`. Return its card.

        `force` renames a version that an alias points to or an unfinished job needs; calls of the alias, and
        the job, then fail.
        """
        params, body = omit_none(force=force or None), {"name": name}
        return await self._fetch(Model, "PATCH", path_of("models", model), params=params, json=body)

    async def delete_model(self, model: str, *, force: bool = False) -> dict[str, Any]:
        """Delete one version of a model: the newest for a bare name.

        `force` deletes a version that an alias points to or an unfinished job needs; calls of the alias, and
        the job, then fail.
        """
        params, can_retry = omit_none(force=force or None), is_exact(model)
        path = path_of("models", model)
        return await self._fetch(dict[str, Any], "DELETE", path, params=params, can_retry=can_retry)

    def download(self, model: str, file: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one file of a model, in pieces."""
        return self._download(path_of("models", model, "files", file))

    def export_model(self, model: str) -> AsyncGenerator[bytes, None]:
        """Yield a tar archive of a model, in pieces; `import_model` takes it.

        >>> with open("nietzsche.tar", "wb") as file:  # doctest: +SKIP
        ...     file.writelines(client.export_model("nietzsche"))
        """
        return self._download(path_of("models", model, "export"))

    def pack_model(
        self,
        model: str,
        *,
        limit_bytes: int | None = None,
        tables: bool = False,
        calibration: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield a model as one file that completes and scores without a server, in pieces.

        It has at most `limit_bytes`, for which the beginning of the known text is left out. With `tables` it
        is larger and opens at once. It scores lines by the `calibration` of this name; by default a model of
        a log does by its usual one.
        """
        given = {"limit_bytes": limit_bytes, "calibration": calibration, "tables": str(tables).lower()}
        options = {name: str(value) for name, value in given.items() if value is not None}
        return self._download(path_of("models", model, "pack"), **options)

    async def import_model(self, archive: bytes | Path | IO[bytes], *, name: str | None = None) -> Model:
        """Import a model from the tar archive that `export_model` yields, as the next version of its name.

        `name` replaces the name in the archive. Importing twice makes two versions.

        >>> client.import_model(Path("nietzsche@3.tar"), name="philosopher")["id"]  # doctest: +SKIP
        'philosopher@1'
        """
        return await self._fetch(
            Model,
            "POST",
            "/v1/models/import",
            params=omit_none(name=name),
            content=upload_body(archive),
            headers={"Content-Type": "application/x-tar"},
            timeout_s=LONG_TIMEOUT_S,
        )

    async def report(self, model: str) -> dict[str, Any]:
        """Return the report of a model's training run."""
        return await self._get(dict[str, Any], path_of("models", model, "report"), format="json")

    def report_file(self, model: str, kind: Literal["html", "svg"]) -> AsyncGenerator[bytes, None]:
        """Yield the report of a model as a page, or its curves as a picture, in pieces."""
        return self._download(path_of("models", model, "report"), format=kind)

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
        share: tuple[int, float] | None = None,
        **options: Unpack[AliasOptions],
    ) -> Alias:
        """Move an alias of a model's name to a version, or make it.

        Args:
            model: the model's name.
            alias: its alias.
            version: that the alias points to from then on.
            share: another version, and the fraction of the clients that get it instead.
            options: what the version must meet.

        Raises:
            Conflict: the version does not meet this (code `alias_check_failed`), or another request moved the
                alias meanwhile (`alias_moved`).
        """
        body: dict[str, Any] = {"version": version, "require": omit_none(**options)}
        if share is not None:
            body["share"] = {"version": share[0], "fraction": share[1]}
        path = path_of("models", model, "aliases", alias)
        return await self._fetch(Alias, "PUT", path, json=body, can_retry=True, timeout_s=LONG_TIMEOUT_S)

    async def roll_back_alias(self, model: str, alias: str) -> Alias:
        """Move an alias back to what it pointed to before; a second call goes one move further back."""
        return await self._fetch(Alias, "POST", path_of("models", model, "aliases", alias, "rollback"))

    async def delete_alias(self, model: str, alias: str) -> Alias:
        """Delete an alias; `roll_back_alias` restores it."""
        return await self._fetch(Alias, "DELETE", path_of("models", model, "aliases", alias))
