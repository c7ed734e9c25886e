"""Says by its exit status whether the process in this container works: healthcheck.py api|worker.

The API is asked over HTTP. A worker keeps its entry among RQ's workers alive, so an entry of this host
that has not expired is its pulse. Knows nothing else of either.
"""

import os
import socket
import sys
import urllib.request


def api() -> bool:
    """Return whether the API on this machine returns 200 for /healthz. Raises OSError without a response."""
    port = os.environ.get("NEXTCHAR_PORT", "8000")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # Docker may set one for all
    with direct.open(f"http://127.0.0.1:{port}/healthz", timeout=4) as response:
        return bool(response.status == 200)


def worker() -> bool:
    """Return whether a worker of this host is known to Redis; raises RedisError if Redis does not respond."""
    from redis import Redis
    from rq import Worker

    with Redis.from_url(os.environ["NEXTCHAR_REDIS_URL"]) as redis:
        return any(
            w.hostname == socket.gethostname() for w in Worker.all(connection=redis, serializer="json")
        )


if __name__ == "__main__":
    healthy = {"api": api, "worker": worker}[sys.argv[1]]
    sys.exit(0 if healthy() else 1)
