"""Requests to addresses that users have configured, which must not reach a private network.

A name is resolved, all its addresses are checked, and the connection goes to one of the checked addresses: a
second resolution could give another one (DNS rebinding). No redirect is followed, and no proxy of the
environment is used. The whole request has a deadline, whatever the other side does.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from nextchar.models.errors import InvalidInput

TIMEOUT_S = 10.0
"""Time limit of a whole request, including the resolution of the name."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HEADERS = {"User-Agent": "nextchar", "Content-Type": "application/json", "Accept-Encoding": "identity"}
_MAX_SHOWN = 200  # characters of a response that a message of an error quotes

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class _PrivateAddress(OSError):
    """A host is, or may be, in a private network."""


@dataclass(frozen=True)
class Outcome:
    """A response's status and the beginning of its body, if there was one; why the request failed, if so."""

    status: int | None = None
    answer: str | None = None
    error: str | None = None


def check_url(url: str) -> httpx.URL:
    """Return a URL that requests can be sent to.

    Raises:
        InvalidInput: it is not an http or https URL with a host, or has a user name or a fragment.
            The message does not repeat the URL, whose path is often a secret.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a label of the host is invalid
        raise _invalid(f"not a URL: {error}") from None
    is_callable = parsed.scheme in ("http", "https") and bool(host)
    if not is_callable or not 0 < (80 if parsed.port is None else parsed.port) < 1 << 16:
        raise _invalid("not a URL that can be called; write https://host/path")
    if parsed.userinfo or parsed.fragment:
        raise _invalid("the URL has a user name or a fragment, which is not sent; leave it out")
    return parsed


async def check_target(url: str, *, allow_private: bool) -> None:
    """Check that a URL can be called now.

    Raises:
        InvalidInput: it is malformed; its host does not resolve (code `unresolved_target`) or is private
            (`private_target`).
    """
    parsed = check_url(url)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await _resolve(parsed.raw_host.decode("ascii"), parsed.port or 443, allow_private=allow_private)
    except _PrivateAddress as error:
        hint = "set NEXTCHAR_ALLOW_PRIVATE_TARGETS=1 to allow it"
        raise _invalid(f"{error}; {hint}", "private_target") from None
    except (OSError, TimeoutError, UnicodeError):  # UnicodeError: a label of the name is too long
        message = f"the host {parsed.host!r} does not resolve; correct the URL"
        raise _invalid(message, "unresolved_target") from None


async def post(url: str, content: bytes, headers: Mapping[str, str], *, allow_private: bool) -> Outcome:
    """Send a POST request with a body of JSON.

    It has failed if the response is not 2xx, there is none in time, or the address is private.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _post(check_url(url), content, headers, allow_private=allow_private)
    except TimeoutError:
        return Outcome(error=f"no response within {TIMEOUT_S:g} s")
    except (*_FAILURES, InvalidInput) as error:
        return Outcome(error=str(error) or type(error).__name__)


_FAILURES = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    OSError,
    UnicodeError,  # a label of the host is too long
)


def is_public(address: IpAddress) -> bool:
    """Return whether an address is one of the public internet, also if it contains an IPv4 address.

    >>> is_public(ipaddress.ip_address("93.184.216.34")), is_public(ipaddress.ip_address("::ffff:10.0.0.1"))
    (True, False)
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def _post(
    url: httpx.URL, content: bytes, headers: Mapping[str, str], *, allow_private: bool
) -> Outcome:
    all_headers = {"Host": url.netloc.decode("ascii"), **_HEADERS, **headers}
    target = httpcore.URL(scheme=url.scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    async with (
        httpcore.AsyncConnectionPool(_tls(), network_backend=_CheckedHosts(allow_private)) as pool,
        pool.stream("POST", target, headers=list(all_headers.items()), content=content) as response,
    ):
        # Not decompressed: a few bytes of a hostile target could become gigabytes.
        piece = await anext(response.aiter_stream(), b"")
        status, answer = response.status, " ".join(piece[:_MAX_SHOWN].decode("utf-8", "replace").split())
    if 200 <= status < 300:
        return Outcome(status, answer)
    reason = "redirects are not followed" if 300 <= status < 400 else answer
    return Outcome(status, answer, f"the response is {status}{f': {reason}' if reason else ''}")


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the settings of TLS; to read the certificates for each request would take milliseconds."""
    return httpx.create_ssl_context(trust_env=False)


class _CheckedHosts(httpcore.AnyIOBackend):
    """Opens connections to the addresses that a name has now, if they are allowed."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        *others, last = await _resolve(host, port, allow_private=self._allow_private)
        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await super().connect_tcp(str(address), port, *args, **options)
        return await super().connect_tcp(str(last), port, *args, **options)


async def _resolve(host: str, port: int, *, allow_private: bool) -> list[IpAddress]:
    """Return the addresses of a host, without duplicates. Raises OSError: none, or a private one."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if not allow_private and not is_public(address):
            resolved = "" if host == str(address) else f"{host!r} is "
            raise _PrivateAddress(f"{resolved}{address}, which is not a public address")
    return list(dict.fromkeys(addresses))


def _invalid(message: str, code: str = "invalid_url") -> InvalidInput:
    return InvalidInput(message, code=code, param="url")
