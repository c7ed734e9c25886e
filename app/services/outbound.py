"""Requests to addresses that users have configured, which must not reach a private network.

A name is resolved, all its addresses are checked, and the connection goes to one of the checked addresses: a
second resolution could give another one (DNS rebinding). No redirect is followed, and no proxy of the
environment is used. The whole request has a deadline, whatever the other side does.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from nextchar.models.errors import InvalidInput

TIMEOUT_S = 10.0
"""Time limit of a whole request, including the resolution of the name."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_MAX_SHOWN = 200  # characters of a response that a message of an error quotes

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class TargetResponse:
    """The status of a target's response, and the beginning of its body."""

    status: int
    beginning: str


class RequestFailed(Exception):
    """A request that did not succeed; its message says why. `response` is None if there was none."""

    def __init__(self, message: str, response: TargetResponse | None = None) -> None:
        super().__init__(message)
        self.response = response


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
        raise InvalidInput(f"not a URL: {error}", code="invalid_url", param="url") from None
    is_callable = parsed.scheme in ("http", "https") and bool(host)
    if not is_callable or not 0 < (80 if parsed.port is None else parsed.port) < 1 << 16:
        raise InvalidInput(
            "not a URL that can be called; write https://host/path",
            code="invalid_url",
            param="url",
        )
    if parsed.userinfo or parsed.fragment:
        raise InvalidInput(
            "the URL has a user name or a fragment, which is not sent; leave it out",
            code="invalid_url",
            param="url",
        )
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
            addresses = await _resolve(parsed)
    except (OSError, TimeoutError, UnicodeError):  # UnicodeError: a label of the name is too long
        raise InvalidInput(
            f"the host {parsed.host!r} does not resolve; correct the URL",
            code="unresolved_target",
            param="url",
        ) from None
    if not allow_private and (private := _first_private(addresses)):
        raise InvalidInput(
            f"{parsed.host!r} is {private}, which is not a public address; set"
            " NEXTCHAR_ALLOW_PRIVATE_TARGETS=1 to allow it",
            code="private_target",
            param="url",
        )


async def post(
    client: httpx.AsyncClient, url: str, content: bytes, headers: Mapping[str, str], *, allow_private: bool
) -> TargetResponse:
    """Send a POST request with a body of JSON; return the response. `client` is one of `new_client`.

    Raises:
        RequestFailed: the response is not 2xx, there is none in time, or the address is private.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _post(client, check_url(url), content, headers, allow_private=allow_private)
    except TimeoutError:
        raise RequestFailed(f"no response within {TIMEOUT_S:g} s") from None
    except (httpx.HTTPError, OSError, UnicodeError) as error:
        raise RequestFailed(str(error) or type(error).__name__) from None
    except InvalidInput as error:
        raise RequestFailed(error.message) from None


def new_client() -> httpx.AsyncClient:
    """Return a client for `post`. It keeps no connection: the next request may be to another host there."""
    return httpx.AsyncClient(
        verify=_tls(),
        trust_env=False,
        follow_redirects=False,
        timeout=TIMEOUT_S,
        limits=httpx.Limits(max_keepalive_connections=0),
    )


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the settings of TLS; to read the certificates for each client would take milliseconds."""
    return httpx.create_ssl_context(trust_env=False)


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
    client: httpx.AsyncClient,
    url: httpx.URL,
    content: bytes,
    headers: Mapping[str, str],
    *,
    allow_private: bool,
) -> TargetResponse:
    addresses = await _resolve(url)
    if not allow_private and (private := _first_private(addresses)):
        raise RequestFailed(f"{url.host!r} is {private}, which is not a public address")
    for i, address in enumerate(addresses):
        request = client.build_request(
            "POST",
            url.copy_with(host=str(address)),
            content=content,
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                **headers,
                "Host": url.netloc.decode("ascii"),
            },
            extensions={"sni_hostname": url.raw_host.decode("ascii")},
        )
        try:
            response = await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if i + 1 == len(addresses):
                raise
            continue
        try:
            received = TargetResponse(response.status_code, await _beginning(response))
        finally:
            await response.aclose()
        if response.is_success:
            return received
        reason = "redirects are not followed" if response.is_redirect else received.beginning
        raise RequestFailed(f"the response is {received.status}{f': {reason}' if reason else ''}", received)
    raise AssertionError("a host that resolves has an address")


async def _beginning(response: httpx.Response) -> str:
    # Not decompressed: a few bytes of a hostile target could become gigabytes.
    async for piece in response.aiter_raw(_MAX_SHOWN):
        return " ".join(piece.decode("utf-8", "replace").split())
    return ""


async def _resolve(url: httpx.URL) -> list[IpAddress]:
    """Return the addresses of a URL's host, without duplicates. Raises OSError."""
    port = url.port or (443 if url.scheme == "https" else 80)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(url.raw_host.decode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def _first_private(addresses: list[IpAddress]) -> IpAddress | None:
    return next((address for address in addresses if not is_public(address)), None)
