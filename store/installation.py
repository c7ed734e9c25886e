"""Checks an object store at the start of a process, and that no two installations use the same prefix.

    installation/format.json   the format version and the id of the installation; created once
    installation/redis.json    the id of the Redis that it works with; the API processes renew it

    nextchar:installation      in Redis, a hash: `id` of the installation, `redis`, a random id of this Redis

All processes of one installation share a Redis. If that of a starting process is not the one in the storage,
either another installation is running, or Redis has lost its data or was replaced. A running installation
renews its record, so the process waits: if the record is renewed, it refuses to start, and otherwise it takes
the storage over. No clocks are compared.

A folder is not checked like this: its launcher or its volume belongs to one installation.
"""

import json
import logging
import secrets
import sys
import time
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from nextchar.models.errors import DomainError, Unavailable
from nextchar.models.validation_errors import load_record
from nextchar.store.blobs import Blobs, StorageRefused
from nextchar.store.logs import configure_logging
from nextchar.store.open_blobs import is_object_store, open_blobs
from nextchar.store.queue import connect
from nextchar.store.settings import StoreSettings

log = logging.getLogger("nextchar.store")

RENEW_S = 15.0
"""Seconds between two renewals of the record by an API process."""

WAIT_S = 3 * RENEW_S
"""A record that is not renewed for so long belongs to no running installation."""

FORMAT_VERSION = 1

_FORMAT_PATH = "installation/format.json"
_REDIS_PATH = "installation/redis.json"
_KEY = "nextchar:installation"
_POLL_S = 1.0


class Installation:
    """The installation that uses this storage with this Redis (with `decode_responses=True`)."""

    def __init__(self, blobs: Blobs, redis: Redis) -> None:
        self._blobs, self._redis = blobs, redis
        self._redis_id = secrets.token_hex(8)  # the one that it gets if it has none
        self._is_claimed = False
        self._id: str | None = None
        self._seen: dict[str, Any] | None = None

    def claim(self, *, wait_s: float = WAIT_S) -> None:
        """Record that the installation of this Redis uses the storage.

        Raises:
            StorageRefused: another installation uses it, or this Redis; or its format is unknown.
            Unavailable: the storage does not work.
            RedisError: Redis does not work.
        """
        self._id = self._installation_id()
        self._read_redis_id(self._id)
        owner = first = self._owner()
        deadline_s = time.monotonic() + wait_s
        while owner and owner["redis"] != self._redis_id:
            if owner != first:
                raise StorageRefused(
                    "another installation is using this storage, with another Redis; give each installation"
                    " its own prefix, or set one NEXTCHAR_REDIS_URL for all processes of an installation"
                )
            if time.monotonic() > deadline_s:
                log.warning("the storage was used with another Redis, which is gone: it is taken over")
                break
            if owner is first:
                log.warning(
                    "the storage was used with another Redis; waiting %.0f s to see whether that is running",
                    wait_s,
                )
            time.sleep(min(_POLL_S, wait_s))
            owner = self._owner()
        self._write_owner()
        self._is_claimed = True

    def renew(self) -> None:
        """Renew the record; call it every `RENEW_S` seconds while the installation runs. Raises as `claim`.

        If Redis has lost its data, it gets its id again.
        """
        if not self._is_claimed or self._id is None:  # Redis did not work at the start
            self.claim()
            return
        before = self._redis_id
        try:
            self._read_redis_id(self._id)
        except RedisError:
            log.debug("Redis does not work; the storage is still that of this installation")
        owner = self._owner()
        # Another process of the installation may have given a new id to a Redis that had lost its data.
        if owner and owner["redis"] not in (before, self._redis_id):
            raise StorageRefused(
                "another installation, with another Redis, has taken over the storage; stop one of them"
            )
        if owner is None or owner == self._seen or owner["redis"] != self._redis_id:
            self._write_owner()
        else:  # another process of the installation has renewed it since the last round
            self._seen = owner

    def _installation_id(self) -> str:
        """Return the id of the storage's installation; create it in an empty storage."""
        new = {
            "format_version": FORMAT_VERSION,
            "id": f"installation_{secrets.token_hex(8)}",
            "created_at": int(time.time()),
        }
        record = self._record(_FORMAT_PATH)
        if record is None:
            self._blobs.create(_FORMAT_PATH, json.dumps(new).encode())
            record = self._record(_FORMAT_PATH) or {}
        if record.get("format_version") != FORMAT_VERSION:
            raise StorageRefused(
                f"{_FORMAT_PATH} has format version {record.get('format_version')!r} and this program reads"
                f" {FORMAT_VERSION}; upgrade nextchar"
            )
        return str(record.get("id"))

    def _read_redis_id(self, installation_id: str) -> None:
        """Take the id of this Redis, or give it one. Raises StorageRefused if it has another installation."""
        self._redis.hsetnx(_KEY, "id", installation_id)
        self._redis.hsetnx(_KEY, "redis", self._redis_id)
        in_redis: Any = self._redis.hgetall(_KEY)
        if in_redis["id"] != installation_id:
            raise StorageRefused(
                f"this Redis belongs to {in_redis['id']} and the storage to {installation_id}; give each"
                " installation its own Redis or database number. If you changed the storage on purpose, stop"
                f" all processes and run: redis-cli DEL {_KEY}"
            )
        self._redis_id = in_redis["redis"]

    def _owner(self) -> dict[str, Any] | None:
        return self._record(_REDIS_PATH)

    def _write_owner(self) -> None:
        record: dict[str, Any] = {"redis": self._redis_id, "renewed_at": time.time()}
        self._blobs.write(_REDIS_PATH, json.dumps(record).encode())
        self._seen = record

    def _record(self, path: str) -> dict[str, Any] | None:
        try:
            record = load_record(self._blobs.read_record(path))
        except FileNotFoundError:
            return None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise StorageRefused(
                f"{path} is damaged; restore it, or delete it if nothing else uses the storage"
            )
        return record


def check_storage(settings: StoreSettings, *, wait_s: float = WAIT_S) -> None:
    """Check the object store of these settings; print what is wrong and exit. Of a folder, log it.

    The exit status is 2 if the store or the settings must be changed, and 1 if the store does not work now.
    Without Redis, whether the storage is another installation's is checked later, by `Installation.renew`.
    """
    if not is_object_store(settings.blobs_url):
        _check_folder(settings.blobs_url)
        return
    where = f"nextchar: NEXTCHAR_STORE_URL={settings.blobs_url!r}"
    try:
        blobs = open_blobs(settings.blobs_url)
        blobs.check()
        with connect(settings.redis_url, decode_responses=True) as redis:
            Installation(blobs, redis).claim(wait_s=wait_s)
    except RedisError as error:
        log.warning("which installation uses the storage is checked when Redis works: %s", error)
    except (StorageRefused, ValueError) as error:
        print(f"{where}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Unavailable as error:
        print(f"{where}: {error.message}; check the endpoint and the network", file=sys.stderr)
        raise SystemExit(1) from None


def _check_folder(url: str) -> None:
    """Log what a storage folder cannot do. The service starts in any case: it may serve the models in it."""
    probe = f"health/Probe-{secrets.token_hex(8)}"
    try:
        blobs = open_blobs(url)
        blobs.create(probe, b"")
        ignores_case = blobs.exists(probe.lower())
        blobs.delete(probe)
    except (DomainError, OSError) as error:
        log.warning("nothing can be stored: %s", error)
        return
    if ignores_case:
        log.warning(
            "the file system of the storage ignores case, so names such as Logs and logs are one name: use"
            " names that differ in more than case, or move the storage to a file system that distinguishes it"
        )


def main() -> None:
    """Check the storage of the environment, for a process that cannot do so itself."""
    settings = StoreSettings.load()
    configure_logging(settings)
    check_storage(settings)


if __name__ == "__main__":
    main()
