"""The modules that read logs in the console: times, pieces of a file, and the order of lines."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.browser.console.windows import Open, settled
from tests.browser.populated_service import PopulatedService

REFERENCE = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def call(service: PopulatedService, open_window: Open) -> Any:
    """A function that runs JavaScript on a page of the console."""
    return settled(open_window(service.url)).evaluate


def milliseconds(iso: str) -> float:
    """An ISO time, read as UTC, in milliseconds since 1970."""
    return datetime.fromisoformat(iso).replace(tzinfo=UTC).timestamp() * 1000


def test_times_are_read_in_the_formats_of_logs_as_they_are_written(call: Any) -> None:
    lines = {
        "2024-05-06T07:08:09.123456Z start": "2024-05-06T07:08:09.123",
        "[2024/05/06 07:08:09] start": "2024-05-06T07:08:09",
        "2024-05-06 07:08:09,5 +0200 start": "2024-05-06T07:08:09.500",
        "- 1117838570 2005.06.03 R02 2005-06-03-15.42.50.363779 R02": "2005-06-03T22:42:50",
        '1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /a 2024-05-06 07:08:09"': "2000-10-10T13:55:36",
        "Dec 10 06:55:46 host sshd[1]: x": "2023-12-10T06:55:46",  # after the reference: the year before
        "Feb  2 06:55:46 host sshd[1]: x": "2024-02-02T06:55:46",
        "[Sun Dec 04 04:47:44 2005] [notice] x": "2005-12-04T04:47:44",
        "081109 203518 143 INFO x": "2008-11-09T20:35:18",
        "17/06/09 20:10:40 INFO x": "2017-06-09T20:10:40",
        '{"ts": 1700000000.25, "m": 1}': "2023-11-14T22:13:20.250",
        "1700000000123 INFO": "2023-11-14T22:13:20.123",
        "no time here 12:30": None,
        "2024-13-40T99:00:00": None,
        "port 12345678901234 open": None,
    }
    script = """async ([lines, reference]) => {
      const { makeClock } = await import("/console/log/clock.js");
      const times = lines.map((line) => makeClock(reference)(line));
      return times.map((ms) => (Number.isNaN(ms) ? null : ms));
    }"""
    found = call(script, [list(lines), REFERENCE.timestamp() * 1000])
    assert dict(zip(lines, found, strict=True)) == {
        line: None if time is None else milliseconds(time) for line, time in lines.items()
    }


@pytest.mark.parametrize("max_bytes", [1, 2, 3, 5, 8, 13, 100])
def test_pieces_of_a_file_end_with_lines_and_cut_only_those_that_are_too_long(
    call: Any, max_bytes: int
) -> None:
    text = "ab\ncdefgh\n\ni"
    script = """async ([text, maxBytes]) => {
      const { readLines } = await import("/console/log/source.js");
      const blob = new Blob([text]);
      const pieces = [];
      for (let offset = 0; offset < blob.size;) {
        const { data, next } = await readLines(blob, offset, maxBytes);
        pieces.push(new TextDecoder().decode(data));
        offset = next;
      }
      return pieces;
    }"""
    pieces = call(script, [text, max_bytes])
    assert all(0 < len(piece) <= max_bytes for piece in pieces)
    lines = [line for piece in pieces for line in (piece[:-1] if piece[-1] == "\n" else piece).split("\n")]
    assert lines == [line[:max_bytes] for line in text.split("\n")]


def test_lines_are_ordered_by_score_then_position_and_grouped_like_a_naive_sort(call: Any) -> None:
    script = """async () => {
      const { selectRows, groupRows, countOver } = await import("/console/log/selection.js");
      const length = 500;
      const pseudo = (n) => (n * 7919) % 101;
      const log = {
        length,
        score: Float32Array.from({ length }, (_, n) => pseudo(n) / 4),
        alert: Uint32Array.from({ length }, (_, n) => n % 3),
        alerts: new Map([["", 0], ["a", 1], ["b", 2]]),
        number: Uint32Array.from({ length }, (_, n) => n + 1),
      };
      const filter = { isFlagged: (row) => log.score[row] > 20, isRepeat: () => false,
                       flaggedOnly: true, byScore: true, matches: null, alert: null,
                       range: [11, 400], positions: log.number };
      const selected = selectRows(log, filter);
      const grouped = groupRows(log, filter);
      const { total, flagged } = countOver(log, filter, { range: [1, 500], bins: 7 });
      return { rows: [...selected.rows], total: selected.total, flagged: selected.flagged,
               scores: [...log.score], groups: grouped.groups, counts: [[...total], [...flagged]] };
    }"""
    got = call(script)
    scores = got["scores"]
    inside = range(10, 400)
    flagged = [row for row in inside if scores[row] > 20]
    assert got["rows"] == sorted(flagged, key=lambda row: (-scores[row], row))
    assert (got["total"], got["flagged"]) == (len(inside), len(flagged))
    for group in got["groups"]:
        members = [row for row in flagged if row % 3 == group["alert"]]
        assert (group["total"], group["flagged"]) == (len(members), len(members))
        assert scores[group["top"]] == max(scores[row] for row in members)
    bins = [min(6, int(row * 7 / 499)) for row in range(500)]
    assert got["counts"][0] == [bins.count(n) for n in range(7)]
    assert got["counts"][1] == [
        sum(scores[row] > 20 for row in range(500) if bins[row] == n) for n in range(7)
    ]
