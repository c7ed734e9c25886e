"""`nextchar admin backup` and `restore`: of the installation that the settings name."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from nextchar.app import backup
from nextchar.launcher.processes import LauncherError, cannot_write
from nextchar.launcher.settings import InstallationSettings
from nextchar.launcher.valkey import EmbeddedValkey, running_url
from nextchar.models.errors import DomainError
from nextchar.store.open_blobs import open_blobs

_REDIS_TIMEOUT_S = 30.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Back up or restore the installation that the environment names; exit with 1 on an error."""
    description = "Back up a whole installation while it runs, or restore it into an empty, stopped one."
    parser = argparse.ArgumentParser(prog="nextchar admin", description=description)
    parser.add_argument("command", choices=("backup", "restore"))
    parser.add_argument("file", type=Path, metavar="FILE", help="the archive, which `backup` makes")
    options = parser.parse_args(arguments)
    settings = InstallationSettings.load()
    is_backup = options.command == "backup"
    try:
        totals = (back_up_to if is_backup else restore_from)(options.file, settings)
    except (LauncherError, DomainError, RedisError, OSError) as error:
        failed = "no backup was written" if is_backup else "not restored"
        raise SystemExit(f"nextchar: {failed}: {error}") from None
    print(
        f"{'backed up to' if is_backup else 'restored'} {options.file}: {totals.objects:,} objects of"
        f" {totals.bytes:,} bytes, {totals.redis_keys:,} Redis keys"
    )


def back_up_to(file: Path, settings: InstallationSettings) -> backup.Totals:
    """Write a backup of the installation to a new file; it may be running.

    Raises:
        LauncherError: the file exists, there is no installation or nothing in its storage, its folder cannot
            be written, or its Redis does not respond or start.
        redis.exceptions.RedisError, OSError, DomainError: as `nextchar.app.backup.back_up`; there
            is no file then.
    """
    if file.exists():
        raise LauncherError(f"{file} exists; name a new file, or delete it first")
    data_dir = settings.data_dir.resolve()
    if settings.store_url is None and not (data_dir / "store").is_dir():
        raise LauncherError(f"{data_dir} has no installation; set NEXTCHAR_DATA_DIR to the service's")
    partial = file.with_name(f"{file.name}.partial")
    try:
        with _redis_of(settings) as redis, partial.open("wb") as out:
            _spool_in(data_dir)
            totals = backup.back_up(open_blobs(settings.blobs_url), redis, out)
            if totals.objects == 0:
                raise LauncherError("the storage is empty; set the NEXTCHAR_ variables of the service")
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    return totals


def restore_from(file: Path, settings: InstallationSettings) -> backup.Totals:
    """Restore a backup into the empty installation that the settings name, which must not be running.

    Raises as `back_up_to` and `nextchar.app.backup.restore`.
    """
    with file.open("rb") as source, _redis_of(settings) as redis:
        _spool_in(settings.data_dir.resolve())
        return backup.restore(open_blobs(settings.blobs_url), redis, source)


def _spool_in(data_dir: Path) -> None:
    """Write temporary files to the data folder: the system's folder may be in memory, as in containers.

    Not before the embedded Valkey is found, whose socket may be in the system's folder.
    """
    spool = data_dir / "spool"
    try:
        spool.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(data_dir, error) from error
    tempfile.tempdir = str(spool)


@contextlib.contextmanager
def _redis_of(settings: InstallationSettings) -> Iterator[Redis]:
    """Connect to the installation's Redis: the one of the settings, or the embedded one, running or not."""
    with contextlib.ExitStack() as stack:
        url = settings.given_redis_url or running_url(settings.data_dir)
        if url is None:
            embedded = EmbeddedValkey(settings.data_dir, max_bytes=settings.valkey_max_bytes)
            url = stack.enter_context(embedded).url
        redis = stack.enter_context(backup.connect(url, socket_timeout=_REDIS_TIMEOUT_S))
        try:
            redis.ping()
        except RedisError as error:
            raise LauncherError(f"the installation's Redis does not respond: {error}") from None
        yield redis
