import random
from collections.abc import Sequence

import pytest

from nextchar.models.text.events import (
    MAX_LINES,
    EventJoiner,
    EventStarts,
    Opener,
    TextEvents,
    events_of,
    fingerprint,
)
from nextchar.models.text.lines import MAX_LINE_CHARACTERS, InputLine
from nextchar.models.text.masks import Masks
from tests.logs import LOGS, MULTILINE_LOGS, SERVER_LOGS, server_log

LOG = ["09:00:01 up", "09:00:02 failed", "ValueError: a", "  in f", "09:00:03 stopped", "  by root"]
OPENER = Opener(frozenset({""}))
PLAIN = Opener(frozenset({""}), has_plain=True)


def events(opener: Opener | None, lines: Sequence[str]) -> list[str]:
    return list(events_of(opener, lines))


def as_input(lines: Sequence[str | None]) -> list[InputLine]:
    return [InputLine(n, 10 * n, line, {}) for n, line in enumerate(lines, 1)]


@pytest.mark.parametrize("name", LOGS)
def test_a_log_of_events_of_one_line_has_no_opener(name: str) -> None:
    assert Opener.learn(list(LOGS[name](2000))) is None


@pytest.mark.parametrize("name", SERVER_LOGS)
def test_each_event_of_a_server_begins_with_its_message(name: str) -> None:
    lines = server_log(name, 3000)
    opener = Opener.learn(lines)
    assert opener
    said = ("failed ", "started ", "loaded ")
    found = events(opener, lines)
    assert "\n".join(found) == "\n".join(lines)
    assert all(any(word in event.partition("\n")[0] for word in said) for event in found)
    assert len(found) == sum(any(word in line for word in said) for line in lines)


def test_events_of_a_log_of_the_day_begin_at_night_too() -> None:
    def slow_queries(date: str, hours: Sequence[str]) -> list[str]:
        return [
            line
            for hour in hours
            for i in range(10)
            for line in (f"# Time: {date} {hour}:{i + 10}:00", "# User@Host: app[app]", f"COMMIT {i};")
        ]

    opener = Opener.learn(slow_queries("230311", [str(hour) for hour in range(10, 24)]))
    found = events(opener, slow_queries("230312", [f" {hour}" for hour in range(10)]))
    assert len(found) == 100
    assert found[0] == "# Time: 230312  0:10:00\n# User@Host: app[app]\nCOMMIT 0;"


@pytest.mark.parametrize("prefix", ["2023-12-10T06:55:{n:02}.1Z stderr F ", "web-{n} | "])
@pytest.mark.parametrize("name", ["logback-java", "epoch-python", "postgresql-indented_sql"])
def test_what_a_runtime_writes_before_each_line_is_ignored(name: str, prefix: str) -> None:
    lines = server_log(name, 1000)
    prefixed = [prefix.format(n=n % 60) + line for n, line in enumerate(lines)]
    opener, with_prefix = Opener.learn(lines), Opener.learn(prefixed)
    assert opener and with_prefix and with_prefix.has_prefix
    found = events(with_prefix, prefixed)
    assert [e.count("\n") for e in found] == [e.count("\n") for e in events(opener, lines)]
    if name == "logback-java":
        assert fingerprint(found[-1]).split(" ")[-1] == fingerprint(events(opener, lines)[-1]).split(" ")[-1]
    assert Opener.learn([prefix.format(n=n % 60) + "job done" for n in range(100)]) is None


@pytest.mark.parametrize(
    ("name", "lines"), [("gc_log", 6), ("java_log", 61), ("sql_log", 7), ("uptime_log", 3)]
)
def test_events_of_as_many_lines_each_are_found(name: str, lines: int) -> None:
    log = list(MULTILINE_LOGS[name](1281 * lines // lines))
    opener = Opener.learn(log)
    if name == "sql_log":  # its time is in the third line of each
        assert opener and all(" SELECT" not in event[:8] for event in events(opener, log))
        return
    sizes = [event.count("\n") + 1 for event in events(opener, log)]
    assert set(sizes[:-1]) == {lines}


def test_lines_open_events_though_their_levels_are_aligned_to_the_right() -> None:
    levels = ("info", "error", "warning")
    lines = [f"{levels[i % 3]:>7} 2026-01-16 04:{i // 60:02}:{i % 60:02} step {i}" for i in range(300)]
    lines[50:50] = lines[150:150] = lines[250:250] = ["  caused by: x"]
    opener = Opener.learn(lines)
    assert len(events(opener, lines)) == 300


def test_a_pretty_printed_object_is_one_event() -> None:
    log = ["{", '  "ts": "2023-12-10T06:55:46Z",', '  "tags": [', '    "a"', "  ]", "}"] * 20
    opener = Opener.learn(log)
    assert opener and not opener.places
    assert events(opener, log) == ["\n".join(log[:6])] * 20


def test_an_object_in_one_line_is_an_event_wherever_its_time_is() -> None:
    draw = random.Random(1)
    log = [
        f'{{"msg": "{"word " * draw.randrange(40)}", "ts": "2023-12-10T06:55:{i % 60:02}Z"}}'
        for i in range(500)
    ]
    assert Opener.learn(log) is None
    assert events(PLAIN, ["09:00:01 a", '{"a": "b c"}', "d"]) == ["09:00:01 a", '{"a": "b c"}\nd']


def test_a_few_lines_without_time_or_mark_do_not_make_events_of_several_lines() -> None:
    log = [f"2023-12-10 06:55:{i % 60:02} job {i} done" for i in range(1000)]
    for at in (100, 300, 500, 700):
        log[at] = "-- Reboot --"
    assert Opener.learn(log) is None


def test_a_line_of_another_log_is_no_part_of_an_event_whose_others_all_have_marks() -> None:
    opener = Opener.learn(LOG * 20)
    assert opener == OPENER
    assert events(opener, [*LOG[:4], "GET /etc/passwd", *LOG[4:]])[1:3] == [
        "\n".join(LOG[1:4]),
        "GET /etc/passwd",
    ]


def test_lines_without_marks_are_learned_to_continue_events() -> None:
    log = ["09:00:01 query:", "FROM items", "WHERE id = 1", "09:00:02 done"] * 20
    opener = Opener.learn(log)
    assert opener == PLAIN
    assert events(opener, log)[:2] == ["\n".join(log[:3]), log[3]]


def test_before_the_first_opening_line_only_marks_join() -> None:
    tail = ["FROM items", "\tat a.b(C.java:1)", "WHERE id = 1"]
    assert events(PLAIN, [*tail, "09:00:01 a", "b"]) == ["\n".join(tail[:2]), tail[2], "09:00:01 a\nb"]


def test_an_event_has_limits() -> None:
    log = ["09:00:01 a", *["  b"] * (2 * MAX_LINES)]
    assert [e.count("\n") + 1 for e in events(OPENER, log)] == [MAX_LINES, MAX_LINES, 1]
    log = ["09:00:01 a", *["  " + "b" * 9_998] * 5]
    found = events(OPENER, log)
    assert all(len(event) <= MAX_LINE_CHARACTERS for event in found) and len(found) == 2
    assert events(OPENER, ["x" * 2 * MAX_LINE_CHARACTERS, "  y"]) == ["x" * 2 * MAX_LINE_CHARACTERS, "  y"]


def test_a_line_that_cannot_be_read_ends_an_event() -> None:
    starts = EventStarts(OPENER)
    assert [starts.add(line) for line in ("09:00:01 a", "  b", None, "  c", "  d")] == [
        True, False, True, True, False
    ]  # fmt: skip


def test_events_keep_number_offset_and_errors_of_their_lines() -> None:
    joiner = EventJoiner(OPENER)
    lines = as_input(LOG)
    lines[1].meta["id"] = 7
    lines[2].meta["not_utf8"] = {"offset": 33}
    found = [*joiner.feed(lines), joiner.finish()]
    assert [(e.number, e.offset, e.lines) for e in found if e] == [(1, 10, 1), (2, 20, 3), (5, 50, 2)]
    assert found[1] and found[1].meta == {"id": 7, "not_utf8": {"offset": 33}}
    assert joiner.finish() is None


@pytest.mark.parametrize("seed", range(5))
def test_events_do_not_depend_on_how_lines_arrive(seed: int) -> None:
    draw = random.Random(seed)
    lines = as_input(
        [line for i in range(30) for line in server_log(f"tomcat-{'java' if i % 2 else 'sql'}", 20)]
    )
    joiner, found, at = EventJoiner(PLAIN), list[InputLine](), 0
    while at < len(lines):
        end = min(len(lines), at + draw.randrange(1, 40))
        found += joiner.feed(lines[at:end])
        at = end
        if draw.random() < 0.5 and joiner.held:  # as a client does that sends the last lines again
            at -= len(joiner.held)
            joiner = EventJoiner(PLAIN)
    found += filter(None, [joiner.finish()])
    assert [e.text for e in found] == events(PLAIN, [line.text or "" for line in lines])


def test_an_opener_is_stored() -> None:
    assert Opener.load(PLAIN.dump()) == PLAIN
    with pytest.raises(KeyError):
        Opener.load({"places": []})


def test_masked_lines_are_joined_where_the_original_ones_are() -> None:
    log = LOG * 3
    starts = EventStarts(OPENER)
    found = TextEvents(OPENER, [starts.add(line) for line in log])
    masked = Masks(["timestamp"]).replace("\n".join(log)).split("\n")
    assert found.of(masked[1:]) == found.of(masked)[1:]
    assert found.of(masked[:6], after=12) == [
        "ⓣ up",
        "ⓣ failed\nValueError: a\n  in f",
        "ⓣ stopped\n  by root",
    ]
    assert found.of(masked[3:6], after=12) == ["ⓣ stopped\n  by root"]  # the first is cut off
    assert found.of([]) == []


@pytest.mark.parametrize(
    ("trace", "names"),
    [
        pytest.param(
            """java.lang.IllegalStateException: order 17
	at java.util.HashMap.get(HashMap.java:99)
	at com.acme.Shop$$EnhancerByCGLIB$$4f1.buy(Shop.java:20)
	at com.acme.Cart.lambda$add$0(Cart.java:7)
	at org.acme.Main.main(Main.java:7) ~[acme-1.2.jar:?]
	at org.acme.Main.further(Main.java:8)
Caused by: java.io.IOException: no space
	at sun.nio.Write.write(Write.java:7)
	... 12 more""",
            "java.lang.IllegalStateException com.acme.Shop.buy com.acme.Cart. org.acme.Main.main"
            " java.io.IOException sun.nio.Write.write",
            id="Java",
        ),
        pytest.param(
            """Traceback (most recent call last):
  File "/usr/lib/python3.11/asyncio/base.py", line 20, in run
    f()
  File "/srv/app/views.py", line 7, in get
    return cart[key]
KeyError: 'user 7'""",
            "/srv/app/views.py:get KeyError",
            id="Python",
        ),
        pytest.param(
            """TypeError: Cannot read properties of undefined
    at async Pool.query (/srv/app/node_modules/pg/pool.js:45:11)
    at process.processTicks (node:internal/process/task_queues:95:5)
    at getUser (/srv/app/user.js:12:5)""",
            "TypeError Pool.query getUser",
            id="Node",
        ),
        pytest.param(
            """goroutine 17 [running]:
net/http.(*conn).serve(0xc000, 0x1)
	/usr/local/go/src/net/http/server.go:1801
main.handle(0xc0001a)
	/srv/main.go:17 +0x1f""",
            "main.handle",
            id="Go",
        ),
        pytest.param(
            """   at System.Linq.Enumerable.First[TSource](IEnumerable`1 source)
   at Acme.Web.OrderController.Get(Int32 id) in C:\\src\\Order.cs:line 42""",
            "Acme.Web.OrderController.Get",
            id=".NET",
        ),
    ],
)
def test_fingerprint_of_a_trace_has_exceptions_and_own_functions(trace: str, names: str) -> None:
    assert fingerprint(f"failed 7\n{trace}") == f"failed 7 {names}"


def test_numbers_and_masks_do_not_change_a_fingerprint() -> None:
    event = "failed\nio.AcmeException: 7\n\tat io.acme.A12.run(A12.java:7)"
    other = event.replace("12", "94").replace("7", "3")
    assert fingerprint(event) == fingerprint(other) == fingerprint(Masks(["digits"]).replace(event))


def test_fingerprint_of_other_events_is_their_text_in_one_line() -> None:
    assert fingerprint("query:\n  FROM a\n\n  WHERE b") == "query: FROM a WHERE b"
    assert fingerprint("  one  line ") == "  one  line "
