"""moto's S3 server as a process, with buckets of a test's own."""

import contextlib
import functools
import itertools
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from nextchar.launcher.stack import free_port
from tests.waiting import eventually

_numbers = itertools.count()

# Of conditional writes of one object one succeeds, as in S3: moto looks first, and writes later.
_SERVER = """
import sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.server import main

answer, lock = DomainDispatcherApplication.__call__, threading.Lock()

def answer_in_turn(self, environ, start_response):
    if "HTTP_IF_NONE_MATCH" not in environ:
        return answer(self, environ, start_response)
    with lock:
        return answer(self, environ, start_response)

DomainDispatcherApplication.__call__ = answer_in_turn
main(sys.argv[1:])
"""


class S3Server:
    """The server on a free port, as a context manager. It keeps objects in memory, of the session's tests."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.url = f"http://127.0.0.1:{free_port('127.0.0.1')}"

    def __enter__(self) -> Self:
        port = self.url.rpartition(":")[2]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, "-H", "127.0.0.1", "-p", port],
                stdout=log,
                stderr=log,
                env=os.environ | {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"},
            )
        try:
            eventually(self._answers, what="moto's server answers")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def client(self, service: str = "s3", **options: Any) -> Any:
        """Return a boto3 client of the server."""
        import boto3  # imports much, and most tests need no S3

        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=self.url, **(keys | options))

    def new_bucket(self) -> str:
        """Create an empty bucket; return its name."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self._buckets.create_bucket(Bucket=name)
        return name

    @functools.cached_property
    def _buckets(self) -> Any:
        return self.client()

    def environment(self, *, endpoint: str = "") -> dict[str, str]:
        """Return the variables for obstore, for this server or a proxy in front of it."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }

    @contextlib.contextmanager
    def checking_keys(self) -> Iterator[tuple[str, str]]:
        """Have the server check keys and signatures in the block; yield a valid key and its secret."""
        iam = self.client("iam")
        user = f"user-{next(_numbers)}"
        iam.create_user(UserName=user)
        policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
        iam.put_user_policy(UserName=user, PolicyName="s3", PolicyDocument=policy)
        key = iam.create_access_key(UserName=user)["AccessKey"]
        self._allow_unchecked("0")
        try:
            yield key["AccessKeyId"], key["SecretAccessKey"]
        finally:
            self._allow_unchecked("inf")

    def _allow_unchecked(self, requests: str) -> None:
        headers = {"Content-Type": "text/plain"}
        url = f"{self.url}/moto-api/reset-auth"
        with urllib.request.urlopen(urllib.request.Request(url, requests.encode(), headers)):
            pass

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/moto-api/data.json"):
            return True
        return False

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
