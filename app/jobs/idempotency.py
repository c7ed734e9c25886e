"""Idempotency keys: a request that is repeated with the same key gets what the first one has created.

    idempotency/<hash of the key>   the hash of the first request's body, and the id of what it creates

The record is created once, before the thing with this id, so concurrent requests agree on the id.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from nextchar.models.errors import Conflict, NotFound, Unavailable
from nextchar.models.record_errors import load_record
from nextchar.store.blobs import Blobs
from nextchar.store.ids import new_id

Kind = Literal["job", "batch"]
T = TypeVar("T")


@dataclass(frozen=True)
class IdempotencyKeys:
    """The keys in one storage, for one kind of thing that requests create."""

    blobs: Blobs
    kind: Kind

    def created(self, key: str, body: bytes, get: Callable[[str], T]) -> T | None:
        """Return what an earlier request with this key has created, which `get` gets by its id, or None.

        Raises:
            Conflict: the earlier request had another body (code `idempotency_key_reused`).
            Unavailable: its record is damaged (code `idempotency_key_damaged`).
        """
        earlier = self._find(key, body)
        try:
            return get(earlier) if earlier else None
        except NotFound:  # that request ended between its two writes; this one completes it
            return None

    def _find(self, key: str, body: bytes) -> str | None:
        path = self._path(key)
        try:
            record = load_record(self.blobs.read_record(path))
            sent, created = record["body"], record[self.kind]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise Unavailable(
                f"{path} is damaged; use another Idempotency-Key, or delete that record",
                code="idempotency_key_damaged",
                param="Idempotency-Key",
            ) from None
        if sent != hashlib.sha256(body).hexdigest():
            raise Conflict(
                f"this Idempotency-Key was used for another {self.kind}; use a new key for a new {self.kind}",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return str(created)

    def id_for(self, key: str | None, body: bytes) -> str:
        """Return the id for a request: a new one, or that of an earlier request. Raises as `created`."""
        new = new_id(self.kind)
        if key is None:
            return new
        record = {"body": hashlib.sha256(body).hexdigest(), self.kind: new}
        if self.blobs.create(self._path(key), json.dumps(record).encode()):
            return new
        return self._find(key, body) or new  # None: the record has been deleted meanwhile

    def _path(self, key: str) -> str:
        # Keys of jobs have no prefix, as in earlier releases; none begins with a newline.
        scoped = key if self.kind == "job" else f"\n{self.kind}\n{key}"
        return f"idempotency/{hashlib.sha256(scoped.encode()).hexdigest()}"
