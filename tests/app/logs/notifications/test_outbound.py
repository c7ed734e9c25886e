import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nextchar.app.logs.notifications import outbound
from nextchar.app.logs.notifications.outbound import check_target, check_url, is_public, post
from nextchar.models.errors import InvalidInput
from tests.app.logs.notifications.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


class RequestFailed(Exception):
    pass


def send(url: str, *, allow_private: bool = True) -> None:
    sent = asyncio.run(post(url, b"{}", {"x-test": "1"}, allow_private=allow_private))
    if sent.error:
        raise RequestFailed(sent.error)


def check(url: str, *, allow_private: bool = False) -> None:
    asyncio.run(check_target(url, allow_private=allow_private))


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make names resolve to these addresses, one after the other; return the names that were resolved."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host == addresses[-1]:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        family = socket.AF_INET6 if ":" in addresses[0] else socket.AF_INET
        address = addresses[min(len(asked), len(addresses)) - 1]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),  # noqa: S104 -- what this machine answers to
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),  # shared by a provider's customers
        ("169.254.169.254", False),  # metadata of clouds
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fec0::1", False),  # site-local, of before 2004
        ("240.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),  # NAT64 of 127.0.0.1
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) == public


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "example.org",
        "http://",
        "https://user:secret@example.org",
        "https://example.org/#x",
        "http://[::1",
        "http://a:99999/",
        "http://a:0/",
        "http://xn--/",
    ],
)
def test_urls_that_cannot_be_called_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_url(url)
    assert (caught.value.code, caught.value.param) == ("invalid_url", "url")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/x",
        "http://localhost/x",
        "http://[::1]/x",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://[::ffff:10.0.0.1]/",
    ],
)
def test_private_targets_are_refused_unless_allowed(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(url)
    assert caught.value.code == "private_target"
    assert "NEXTCHAR_ALLOW_PRIVATE_TARGETS=1" in caught.value.message
    assert "'127.0.0.1' is 127.0.0.1" not in caught.value.message
    check(url, allow_private=True)


@pytest.mark.parametrize("host", ["nothing.invalid", "a" * 70, f"{'a' * 70}.example", "a..b"])
def test_a_name_that_does_not_resolve_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(f"https://{host}/")
    assert caught.value.code in ("unresolved_target", "invalid_url")


def test_a_request_arrives(receiver: Receiver) -> None:
    send(f"{receiver.url}/hook?a=b")
    [request] = receiver.requests
    assert (request.path, request.body, request.headers["x-test"]) == ("/hook?a=b", b"{}", "1")
    assert (request.headers["content-type"], request.headers["user-agent"]) == (
        "application/json",
        "nextchar",
    )


def test_a_name_that_becomes_private_is_not_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when the target was made, this machine when the message is sent."""
    port = receiver.url.rpartition(":")[2]
    asked = resolving_to(monkeypatch, "93.184.216.34", "127.0.0.1")
    url = f"http://rebinding.example:{port}/"
    check(url)
    with pytest.raises(RequestFailed, match=r"'rebinding\.example' is 127\.0\.0\.1"):
        send(url, allow_private=False)
    assert receiver.requests == []
    send(url)
    assert receiver.requests[0].headers["host"] == f"rebinding.example:{port}"
    assert asked == ["rebinding.example"] * 3, "resolved once for each request"


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    with receiving() as other:
        receiver.status, receiver.headers = 302, {"Location": f"{other.url}/stolen"}
        with pytest.raises(RequestFailed, match="302: redirects are not followed"):
            send(receiver.url)
        assert other.requests == []


def test_what_a_target_answers_is_quoted_in_part(receiver: Receiver) -> None:
    receiver.status, receiver.body = 400, b"bad \n template " + b"x" * 5_000
    with pytest.raises(RequestFailed) as caught:
        send(receiver.url)
    assert str(caught.value).startswith("the response is 400: bad template xxx")
    assert len(str(caught.value)) < 300


def test_a_target_that_hangs_ends_in_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TIMEOUT_S", 0.2)
    released = threading.Event()
    receiver.before_answer = lambda: released.wait(120)
    try:
        with pytest.raises(RequestFailed, match=r"no response within 0\.2 s"):
            send(receiver.url)
    finally:
        released.set()


def test_a_target_that_trickles_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TIMEOUT_S", 0.3)
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not ended.wait(0.05):  # each byte comes well within a timeout for one read
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(RequestFailed, match="no response within"):
                send(f"http://127.0.0.1:{server.getsockname()[1]}/")
        finally:
            ended.set()
            thread.join(60)


def test_a_target_that_is_down_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RequestFailed, match=r"\w"):
        send(f"http://127.0.0.1:{port}/")


def test_no_proxy_of_the_environment_is_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        send(receiver.url)
        assert (len(receiver.requests), proxy.requests) == (1, [])
