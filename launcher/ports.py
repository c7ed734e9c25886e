"""TCP ports: is one free, and which one is."""

import random
import socket

from launcher.processes import LauncherError

# Below what systems hand out for outgoing connections. A client that knocks at a port in that range
# before its server listens can be given the same port, connect to itself and keep the server out.
_RANGE = range(15_000, 30_000)
_TRIES = 100


def free_port(host: str) -> int:
    """Return a port that nothing listens on. Raises LauncherError if none is found."""
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if _problem(host, port) is None:
            return port
    raise LauncherError(f"found no free TCP port on {host}")


def require_free(host: str, port: int) -> None:
    """Raise LauncherError, naming the setting to change, if nobody can listen on the port now."""
    problem = _problem(host, port)
    if problem is not None:
        raise LauncherError(
            f"cannot listen on {host} port {port}: {problem}; set NEXTCHAR_HOST or NEXTCHAR_PORT to another"
        )


def address_to_reach(host: str, port: int) -> str:
    """Return host:port for a client on this machine, for a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - reads it only
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _problem(host: str, port: int) -> str | None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            trial.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    return None
