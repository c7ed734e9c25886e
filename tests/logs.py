"""Logs of several kinds, made from a seed: clocks and counters go on, clients come and go, lines vary."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
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


def gc_log(lines: int) -> Iterator[str]:
    """Garbage collections: events of six lines, with a date, and seconds and milliseconds since the start."""
    draw, clock = random.Random(5), _clock(1.0)
    started = datetime(2023, 12, 10, 6, 55, 46, tzinfo=UTC)
    for _ in range(lines // 6):
        now = next(clock)
        uptime_s = (now - started).total_seconds()
        yield f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}+0000: {uptime_s:.3f}: [GC pause (young)"
        yield f"   [Parallel Time: {draw.uniform(5, 15):.1f} ms, GC Workers: 4]"
        yield f"      [GC Worker Start (ms):  {1000 * uptime_s:.1f}]"
        yield f"      [Object Copy (ms):  {draw.uniform(1, 5):.1f}]"
        yield f"   [Heap: {draw.uniform(50, 60):.1f}M(1024.0M)->7168.0K(1024.0M)]"
        yield " [Times: user=0.01 sys=0.00, real=0.01 secs]"


def java_log(lines: int) -> Iterator[str]:
    """A service's log in which each message is followed by a stack trace of sixty frames."""
    draw, clock = random.Random(6), _clock(5.0)
    for i in range(lines):
        if i % 61 == 0:
            yield f"{next(clock):%H:%M:%S} [worker-{draw.randrange(4)}/ERROR]: IllegalStateException"
        else:
            yield f"\tat org.example.module{i % 7}.Task.step{draw.randrange(20)}(Task.java:{i % 61})"


def python_log(lines: int) -> Iterator[str]:
    """A service's log in which every other message is followed by a traceback."""
    draw, clock = random.Random(7), _clock(5.0)
    for _ in range(lines // 8):
        yield f"{next(clock):%Y-%m-%d %H:%M:%S},{draw.randrange(1000):03} INFO app: request done"
        yield f"{next(clock):%Y-%m-%d %H:%M:%S},{draw.randrange(1000):03} ERROR app: request failed"
        yield "Traceback (most recent call last):"
        for name in ("run", "handle"):
            yield f'  File "/srv/app/{name}.py", line {draw.randrange(3)}, in {name}'
            yield f"    return {name}_inner(request)"
        yield f"ValueError: invalid literal for int(): 'a{draw.randrange(9)}'"


def sql_log(lines: int) -> Iterator[str]:
    """A database's log of slow statements of several lines, with a time in seconds since 1970."""
    draw, time = random.Random(8), 1_700_000_000
    for _ in range(lines // 7):
        time += draw.randrange(1, 30)
        yield "# User@Host: app[app] @ localhost []"
        yield f"# Query_time: {draw.randrange(2, 9)}  Lock_time: 0  Rows_sent: {draw.randrange(100)}"
        yield f"SET timestamp={time};"
        yield draw.choice(("SELECT name, price", "SELECT name"))
        yield "  FROM items"
        yield "  JOIN clients ON clients.id = client_id"
        yield f"  WHERE id = {draw.randrange(500)};"


def uptime_log(lines: int) -> Iterator[str]:
    """A log of events of three lines, with nothing but seconds since the start."""
    draw, uptime_s = random.Random(9), 0.2
    for _ in range(lines // 3):
        uptime_s += draw.uniform(0, 3)
        yield f"{uptime_s:.3f}: [GC {uptime_s:.3f}: [ParNew"
        yield f"- age   1: {draw.randrange(5)} regions"
        yield f": {draw.randrange(900)}K->{draw.randrange(90)}K, 0.00{draw.randrange(10)} secs]"


MULTILINE_LOGS: dict[str, Callable[[int], Iterator[str]]] = {
    f.__name__: f for f in (gc_log, java_log, python_log, sql_log, uptime_log)
}
"""Logs whose events have several lines."""

Draw = random.Random

_HEADS: dict[str, Callable[[datetime, Draw, str], str]] = {
    "elasticsearch": lambda t, draw, said: (
        f"[{t:%Y-%m-%dT%H:%M:%S},{_ms(t)}][INFO ][o.e.n.Node ] [n{_n(draw)}] {said}"
    ),
    "postgresql": lambda t, draw, said: (
        f"{t:%Y-%m-%d %H:%M:%S}.{_ms(t)} UTC [{_n(draw)}] app@shop LOG:  {said}"
    ),
    "cassandra": lambda t, draw, said: (
        f"INFO  [Stage-{_n(draw)}] {t:%Y-%m-%d %H:%M:%S},{_ms(t)} Store.java - {said}"
    ),
    "tomcat": lambda t, draw, said: (
        f"{t:%d-%b-%Y %H:%M:%S}.{_ms(t)} INFO [http-{_n(draw)}] o.a.Context.run {said}"
    ),
    "logback": lambda t, _, said: f"{t:%H:%M:%S}.{_ms(t)} [main] INFO c.a.App - {said}",
    "weblogic": lambda t, draw, said: (
        f"####<{t:%b %d, %Y %I:%M:%S %p} UTC> <Info> <Server> <BEA-{_n(draw)}> <{said}>"
    ),
    "go": lambda t, _, said: f"{t:%Y/%m/%d %H:%M:%S} {said}",
    "klog": lambda t, draw, said: f"I{t:%m%d %H:%M:%S}.{_ms(t)}000    1 server.go:{_n(draw)}] {said}",
    "rails": lambda t, draw, said: f"I, [{t:%Y-%m-%dT%H:%M:%S}.{_ms(t)}000 #{_n(draw)}]  INFO -- : {said}",
    "serilog": lambda t, _, said: f"[{t:%H:%M:%S} INF] {said}",
    "apache": lambda t, draw, said: (
        f"[{t:%a %b %d %H:%M:%S}.{_ms(t)}000 {t:%Y}] [php:error] [pid {_n(draw)}] {said}"
    ),
    "epoch": lambda t, _, said: f"{t.timestamp():.3f} INFO {said}",
}
_WORDS = (
    "alpha",
    "beta",
    "gamma",
    "price",
    "cost",
    "total",
    "name",
    "city",
    "order",
    "item",
    "client",
    "month",
)


def _java(draw: Draw) -> Iterator[str]:
    for i in range(draw.randrange(1, 4)):
        yield f"{'Caused by: ' * (i > 0)}java.io.IOException: {draw.choice(_WORDS)} {_n(draw)}"
        for _ in range(draw.randrange(20, 90)):
            name = draw.choice(_WORDS).title()
            yield f"\tat org.{draw.choice(_WORDS)}.{name}.run({name}.java:{_n(draw)}) ~[a-6.2.jar:6.2]"


def _python(draw: Draw) -> Iterator[str]:
    yield "Traceback (most recent call last):"
    for _ in range(draw.randrange(3, 9)):
        yield f'  File "/srv/app/{draw.choice(_WORDS)}.py", line {_n(draw)}, in {draw.choice(_WORDS)}'
        yield f"    return {draw.choice(_WORDS)}(request)"
    yield f"ValueError: bad {draw.choice(_WORDS)} {_n(draw)}"


def _sql(draw: Draw, indent: str = "") -> Iterator[str]:
    yield f"{indent}  SELECT {draw.choice(_WORDS)}.{draw.choice(_WORDS)},"
    for _ in range(draw.randrange(5, 40)):
        column = draw.choice(_WORDS)
        yield f"{indent}  COALESCE({draw.choice(_WORDS)}.{column}, {_n(draw)}) AS {draw.choice(_WORDS)},"
    yield f"{indent}FROM {draw.choice(_WORDS)} x"
    yield f"{indent}WHERE (x.{draw.choice(_WORDS)} >= {_n(draw)});"


def _json(draw: Draw) -> Iterator[str]:
    yield "{"
    for _ in range(draw.randrange(10, 40)):
        yield f'  "{draw.choice(_WORDS)}_{draw.choice(_WORDS)}" : {_n(draw)},'
    yield '  "took" : 1'
    yield "}"


_BODIES: dict[str, Callable[[Draw], Iterator[str]]] = {
    "java": _java,
    "python": _python,
    "sql": _sql,
    "indented_sql": partial(_sql, indent="\t"),
    "json": _json,
}


def server_log(name: str, lines: int) -> list[str]:
    """A server's log with few events of several lines in its first half, and almost only those later."""
    head, body = name.split("-")
    draw, clock = Draw(name), _clock(3.0)
    log: list[str] = []
    while len(log) < lines:
        if draw.random() < (0.1 if len(log) < lines / 2 else 0.95):
            log += [_HEADS[head](next(clock), draw, f"failed {_n(draw)}"), *_BODIES[body](draw)]
        else:
            log.append(_HEADS[head](next(clock), draw, f"{draw.choice(('started', 'loaded'))} {_n(draw)}"))
    return log[:lines]


SERVER_LOGS = [f"{head}-{body}" for head in _HEADS for body in _BODIES]
"""The names of logs of servers, by how their events begin and go on."""


def _n(draw: Draw) -> int:
    return draw.randrange(10**4)


def _ms(time: datetime) -> str:
    return f"{time.microsecond // 1000:03}"


LOGS: dict[str, Callable[[int], Iterator[str]]] = {
    f.__name__: f for f in (syslog, access_log, json_log, counting_log)
}


def _clock(mean_s: float) -> Iterator[datetime]:
    draw, now = random.Random(0), datetime(2023, 12, 10, 6, 55, 46, tzinfo=UTC)
    while True:
        now += timedelta(seconds=draw.expovariate(1 / mean_s))
        yield now
