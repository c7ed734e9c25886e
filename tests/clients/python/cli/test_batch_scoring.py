"""Lines reach the service once each, in order, whatever happens to the service."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nextchar.cli import batch_scoring
from nextchar.cli.batch_scoring import Totals, score_all
from nextchar.cli.lines import Batches
from nextchar.client import Client
from nextchar.errors import ServerError, ServerUnreachable
from tests.clients.python.fake_server import FakeServer

_OPTIONS = {"only": "anomalous", "detail": "none", "echo": True}


@pytest.fixture
def score_lines(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[int]]:
    monkeypatch.setattr(batch_scoring, "_MIN_RETRY_DELAY_S", 0.01)

    def run(data: bytes, notes: list[str], totals: Totals, *, patience_s: float = 5.0) -> list[int]:
        (tmp_path / "log").write_bytes(data)
        with Client(server.url) as client:
            batches = Batches([str(tmp_path / "log")])
            scored = score_all(
                client, "fake", batches, _OPTIONS, totals, notify=notes.append, patience_s=patience_s
            )
            return [record["line"] for _, record in scored]

    return run


def test_lines_scored_before_a_broken_connection_are_not_sent_again(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [2, 0, None]
    notes: list[str] = []
    totals = Totals()
    assert score_lines(b"A\nb\nC\nd\nE\nf\n", notes, totals) == [1, 3, 5]
    sent = [body for method, path, _, body in server.requests if path.endswith("/score") and method == "POST"]
    assert sent == [b"A\nb\nC\nd\nE\nf\n", b"d\nE\nf\n", b"d\nE\nf\n"]
    assert (totals.lines, totals.anomalous) == (6, 3)
    assert "3 lines wait" in notes[0] and "is back" in notes[-1]


def test_a_busy_service_is_retried_and_a_refusal_is_final(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.refusals = [429, 503]
    assert score_lines(b"A\n", [], Totals()) == [1]
    server.refusals = [422]
    with pytest.raises(ServerError, match="much to do"):
        score_lines(b"A\n", [], Totals())


def test_retries_end_after_the_time_given(server: FakeServer, score_lines: Callable[..., list[int]]) -> None:
    server.refusals = [503] * 1000
    with pytest.raises(ServerError, match="much to do"):
        score_lines(b"A\n", [], Totals(), patience_s=0.05)


def test_drift_is_reported_once_over_all_batches(
    score_lines: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_scoring, "_MIN_BYTES", 40)
    monkeypatch.setattr(batch_scoring, "_MAX_BYTES", 40)
    notes: list[str] = []
    score_lines(b"A\nA\nb\n" * 60, notes, Totals())
    assert len(notes) == 1 and "calibrate on recent" in notes[0]
    score_lines(b"A\nb\nb\nb\n" * 60, notes, Totals())
    assert len(notes) == 1


def test_lines_that_break_every_answer_are_not_retried_forever(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [1] + [0] * 100
    with pytest.raises(ServerUnreachable, match="broke"):
        score_lines(b"A\nB\n", [], Totals(), patience_s=60)
    assert sum(body == b"B\n" for *_, body in server.requests) == 5


def test_a_service_that_never_answered_is_not_retried(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"A\n")
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable):
        list(
            score_all(
                client,
                "fake",
                Batches([str(tmp_path / "log")]),
                _OPTIONS,
                Totals(),
                notify=lambda _: None,
                patience_s=60,
            )
        )


def test_line_numbers_and_offsets_are_those_of_the_file(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ab\n" * 40_000 + b"cd\xff\n")
    with Client(server.url) as client:
        scored = list(
            score_all(
                client,
                "fake",
                Batches([str(tmp_path / "log")]),
                _OPTIONS,
                Totals(),
                notify=lambda _: None,
                patience_s=1,
            )
        )
    ((line, record),) = scored
    assert (line.number, record["line"], record["offset"]) == (40_001, 40_001, 120_000)
    assert record["not_utf8"]["offset"] == 120_002
