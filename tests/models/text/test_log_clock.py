import random
from collections.abc import Iterable
from datetime import date, timedelta

import pytest

from nextchar.models.text.log_clock import LogClock, find_clock, is_stack_frame, rises
from nextchar.models.text.masks import Masks
from tests.logs import LOGS, MULTILINE_LOGS, python_log

WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school")


def clock_of(lines: Iterable[str]) -> LogClock | None:
    lines = [line for line in lines if line]
    masks = {name: Masks([name]) for name in ("timestamp", "date")}
    return find_clock(
        lines,
        {
            name: {n for n, line in enumerate(lines) if any(mask.matches(line))}
            for name, mask in masks.items()
        },
    )


def sentence(i: int) -> str:
    draw = random.Random(i)
    return " ".join(draw.choices(WORDS, k=draw.randrange(4, 9)))


@pytest.mark.parametrize("name", LOGS)
def test_most_lines_of_a_log_have_its_clock(name: str) -> None:
    clock = clock_of(LOGS[name](300))
    assert clock and clock.is_in_most_lines
    assert clock.kind == ("counter" if name == "counting_log" else "time")


@pytest.mark.parametrize(
    ("name", "kind", "mask"),
    [
        ("gc_log", "time", "timestamp"),
        ("java_log", "time", "timestamp"),
        ("python_log", "time", "timestamp"),
        ("sql_log", "time", "long_numbers"),
        ("uptime_log", "counter", "digits"),
    ],
)
def test_one_line_of_each_event_has_the_clock(name: str, kind: str, mask: str) -> None:
    clock = clock_of(MULTILINE_LOGS[name](1200))
    assert clock
    assert clock.kind == kind
    assert clock.masks == {mask}
    assert clock.reason.startswith(
        "events have several lines" if not clock.is_in_most_lines else "most lines"
    )


def subtitles() -> list[str]:
    return [
        line
        for i in range(200)
        for line in (
            str(i + 1),
            f"00:{i // 20:02}:{i * 3 % 60:02},000 --> 00:{i // 20:02}:30,000",
            sentence(i),
        )
    ]


def letters() -> list[str]:
    days = [date(2020, 1, 1) + timedelta(days=i) for i in range(60)]
    return [
        line
        for i, day in enumerate(days)
        for line in (f"Date: {day:%a, %d %b %Y} 10:00:00 +0000", *(sentence(9 * i + k) for k in range(9)))
    ]


def treebank() -> list[str]:
    return [f"{k + 1}\t{word}\tNOUN\t{k}" for i in range(80) for k, word in enumerate(sentence(i).split())]


@pytest.mark.parametrize("lines", [subtitles(), letters(), treebank(), [sentence(i) for i in range(300)], []])
def test_other_texts_with_times_and_numbers_have_none(lines: list[str]) -> None:
    assert clock_of(lines) is None


def test_times_must_rise_and_occur_throughout() -> None:
    lines = list(python_log(800))
    assert clock_of(lines)
    untimed = [line for line in lines if not line.startswith("2023") and not is_stack_frame(line)] * 9
    assert clock_of([*lines[:200], *untimed]) is None


def test_a_counter_may_restart_and_be_a_little_out_of_order() -> None:
    assert rises(dict(enumerate([1, 2, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11, 12, 13])))
    assert rises(dict(enumerate([*range(100), *range(300)])))
    assert not rises(dict(enumerate([k for _ in range(20) for k in range(15)])))
    assert not rises({0: 1.0, 1: 1.0}) and not rises({})


@pytest.mark.parametrize(
    "line",
    [
        "\tat java.util.ArrayList.get(ArrayList.java:427)",
        "    at Object.<anonymous> (/srv/app.js:3:9)",
        '  File "/srv/app.py", line 12, in run',
        "#3 /var/www/index.php(12): run()",
        "        from /srv/app.rb:12:in `run'",
        "        /srv/main.go:12 +0x1d",
        "\t... 9 more",
    ],
)
def test_frames_of_stack_traces(line: str) -> None:
    assert is_stack_frame(line)
    assert not is_stack_frame(f"see {line.strip()}")


def test_unix_seconds_need_not_be_in_order() -> None:
    lines = [f"{1_700_000_000 + i * 3 + 40 * (i % 5)}.25\t{sentence(i)}" for i in range(200)]
    clock = clock_of(lines)
    assert clock and clock.kind == "time" and clock.is_in_most_lines
    assert clock_of(f"{3_000_000_000 + i * 7919 % 1000}\t{sentence(i)}" for i in range(200)) is None


def test_other_times_in_an_event_do_not_hide_its_clock() -> None:
    lines = []
    for i in range(200):
        lines += [
            f"# Time: 2023-12-10T{i // 60:02}:{i % 60:02}:00Z",
            "SELECT name",
            "  FROM items",
            "  LIMIT 9",
        ]
        lines += ["  WHERE made > '1999-01-01 00:00:00'"] * (i % 3 == 0)
    clock = clock_of(lines)
    assert clock and clock.masks == {"timestamp"} and not clock.is_in_most_lines
