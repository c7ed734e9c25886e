from datetime import UTC, datetime

import pytest

from nextchar.models.text.line_time import line_time

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-03-09 08:07:06,500 INFO started", "2026-03-09T08:07:06.500+00:00"),
        ("[2026/03/09 08:07:06] x", "2026-03-09T08:07:06+00:00"),
        ("2005-06-03-15.42.50.675872 R02", "2005-06-03T15:42:50.675872+00:00"),
        ("x 2026-03-09T08:07:06Z", "2026-03-09T08:07:06+00:00"),
        ("2026-03-09T08:07:06-0530 x", "2026-03-09T08:07:06-05:30"),
        ('1.2.3.4 - - [09/Mar/2026:08:07:06 +0100] "GET', "2026-03-09T08:07:06+01:00"),
        ("<34>Mar  9 08:07:06 host su: x", "2026-03-09T08:07:06+00:00"),
        ("Mar 11 08:07:06 host x", "2026-03-11T08:07:06+00:00"),  # a clock that is fast by less than a day
        ("Dec 31 23:59:59 host x", "2025-12-31T23:59:59+00:00"),
        ("Feb 29 00:00:00 host x", "2024-02-29T00:00:00+00:00"),
        ("Jun 30 23:59:60 leap", "2025-06-30T23:59:59+00:00"),
        ("1117838570 2005.06.03 R02", "2005-06-03T22:42:50+00:00"),
        ("1117838570123 x", "2005-06-03T22:42:50.123+00:00"),
        ("1117838570.5 x", "2005-06-03T22:42:50.500+00:00"),
    ],
)
def test_formats(line: str, expected: str) -> None:
    assert line_time(line, now=NOW) == pytest.approx(datetime.fromisoformat(expected).timestamp(), abs=1e-4)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no time",
        "Jun 31 00:00:00 x",
        "2026-13-01 00:00:00",
        "25:61:61",
        "12345678901234567890",
        "0000-01-01 00:00:00",
    ],
)
def test_lines_without_a_time_have_none(line: str) -> None:
    assert line_time(line, now=NOW) is None


def test_the_first_time_that_is_one_is_taken() -> None:
    line = "2026-02-31 00:00:00 then 09/Mar/2026:08:07:06 +0000"
    assert line_time(line, now=NOW) == datetime(2026, 3, 9, 8, 7, 6, tzinfo=UTC).timestamp()
