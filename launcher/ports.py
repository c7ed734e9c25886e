"""Finds free TCP ports."""

import random
import socket

from nextchar.launcher.processes import LauncherError

# Below the ephemeral ports. A client that connects to an ephemeral port before the server listens could get
# the same port as its own, connect to itself, and block the server.
_RANGE = range(15_000, 30_000)
_TRIES = 100


def free_port(host: str) -> int:
    """Return a port that nothing listens on. Raises LauncherError if none is found."""
    for port in random.SystemRandom().sample(_RANGE, _TRIES):
        if _problem(host, port) is None:
            return port
    raise LauncherError(f"found no free TCP port on {host}")


def require_free(host: str, port: int) -> None:
    """Raise LauncherError, with the settings to change, if the port cannot be listened on."""
    problem = _problem(host, port)
    if problem is not None:
        raise LauncherError(
            f"cannot listen on {host} port {port}: {problem}; set NEXTCHAR_HOST or NEXTCHAR_PORT to another"
        )


def address_to_reach(host: str, port: int) -> str:
    """Return host:port for a client on this machine of a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only compared
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _problem(host: str, port: int) -> str | None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            trial.bind((host, port))
    except OSError as error:
        return error.strerror or str(error)
    return None
