"""Logs of several kinds, made from a seed: clocks and counters go on, clients come and go, lines vary."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID


def syslog(lines: int) -> Iterator[str]:
    """An SSH server's log: a clock, process ids that rise, ports, and addresses that new clients bring."""
    draw, clock, process, address = random.Random(1), _clock(7.0), 24200, "10.0.0.1"
    users = ("root", "admin", "oracle", "test", "guest")
    for _ in range(lines):
        process += draw.randrange(3)
        if draw.random() < 0.05:
            address = ".".join(str(draw.randrange(1, 250)) for _ in range(4))
        user = draw.choice(users)
        said = draw.choice(
            (
                f"Failed password for {user} from {address} port {draw.randrange(30000, 60000)} ssh2",
                f"Invalid user {user} from {address}",
                f"Received disconnect from {address}: 11: Bye Bye [preauth]",
                "pam_unix(sshd:auth): check pass; user unknown",
            )
        )
        yield f"{next(clock):%b %d %H:%M:%S} LabSZ sshd[{process}]: {said}"


def access_log(lines: int) -> Iterator[str]:
    """A web server's log, with status codes."""
    draw, clock = random.Random(2), _clock(25.0)
    paths = ("/", "/index.html", "/search", "/cart", "/static/app.js")
    for _ in range(lines):
        yield (
            f'10.1.{draw.randrange(3)}.{draw.randrange(20)} - - [{next(clock):%d/%b/%Y:%H:%M:%S} +0000] "GET'
            f' {draw.choice(paths)} HTTP/1.1" {draw.choice((200, 200, 200, 304, 404))}'
            f" {draw.randrange(10**3, 10**6)}"
        )


def json_log(lines: int) -> Iterator[str]:
    """JSON with ISO timestamps and ids of requests."""
    draw, clock = random.Random(3), _clock(2.0)
    for _ in range(lines):
        request = UUID(int=draw.getrandbits(128), version=4)
        yield (
            f'{{"ts":"{next(clock):%Y-%m-%dT%H:%M:%S}.{draw.randrange(1000):03}Z","level":"info","status":'
            f'{draw.choice((200, 200, 404))},"path":"/{draw.choice(("a", "b", "c"))}","id":"{request}"}}'
        )


def counting_log(lines: int) -> Iterator[str]:
    """A log without dates: seconds since the start, and counters of three digits within words."""
    draw = random.Random(4)
    for i in range(lines):
        event = draw.choice(("started", "finished", "queued"))
        yield f"[{i * 0.173:12.6f}] task_{i // 3} of stage{i // 30}: {event}"


LOGS: dict[str, Callable[[int], Iterator[str]]] = {
    f.__name__: f for f in (syslog, access_log, json_log, counting_log)
}


def _clock(mean_s: float) -> Iterator[datetime]:
    draw, now = random.Random(0), datetime(2023, 12, 10, 6, 55, 46, tzinfo=UTC)
    while True:
        now += timedelta(seconds=draw.expovariate(1 / mean_s))
        yield now
