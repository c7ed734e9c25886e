"""Lines reach the service once each, in order, and are counted, whatever happens to the service."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from nextchar import connection, scored_lines
from nextchar.cli.line_scoring import Totals, read_lines
from nextchar.client import Client
from nextchar.errors import ServerError, ServerUnreachable
from nextchar.lines import Line, LineBuffer, Lines
from tests.clients.python.fake_server import FakeServer


class _LinesThatAreThere:
    """A source that does not depend on how fast a thread reads."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._buffer = LineBuffer()
        for line in lines:
            self._buffer.append(line)

    async def take(self, max_bytes: int) -> list[Line]:
        return self._buffer.pop(max_bytes)

    def close(self) -> None:
        """Nothing is open."""


_OPTIONS = {"only": "anomalous", "detail": "none", "echo": True}


@pytest.fixture
def score_lines(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[int]]:
    monkeypatch.setattr(connection, "FIRST_DELAY_S", 0.01)

    def run(data: bytes, totals: Totals) -> list[int]:
        (tmp_path / "log").write_bytes(data)
        found = []
        with Client(server.url) as client:
            source = _LinesThatAreThere(read_lines([str(tmp_path / "log")]))
            for line, record in client.score_source(
                "fake", source, _OPTIONS, patience_s=totals.patience_s, min_interval_s=0.001
            ):
                totals.add(record)
                if line is not None:
                    found.append(line.number)
        return found

    return run


def new_totals(notes: list[str] | None = None, *, patience_s: float = 5.0) -> Totals:
    return Totals(([] if notes is None else notes).append, patience_s)


def test_lines_scored_before_a_broken_connection_are_not_sent_again(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [2, 0, None]
    notes: list[str] = []
    totals = new_totals(notes)
    assert score_lines(b"A\nb\nC\nd\nE\nf\n", totals) == [1, 3, 5]
    sent = [body for method, path, _, body in server.requests if path.endswith("/score") and method == "POST"]
    assert sent == [b"A\nb\nC\nd\nE\nf\n", b"d\nE\nf\n", b"d\nE\nf\n"]
    assert (totals.lines, totals.anomalous) == (6, 3)
    assert "3 lines wait" in notes[0] and "is back" in notes[-1]


def test_a_busy_service_is_retried_and_a_refusal_is_final(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.refusals = [429, 503]
    assert score_lines(b"A\n", new_totals()) == [1]
    server.refusals = [422]
    with pytest.raises(ServerError, match="much to do"):
        score_lines(b"A\n", new_totals())


def test_retries_end_after_the_time_given(server: FakeServer, score_lines: Callable[..., list[int]]) -> None:
    server.refusals = [503] * 1000
    with pytest.raises(ServerError, match="much to do"):
        score_lines(b"A\n", new_totals(patience_s=0.05))


def test_drift_is_reported_once_over_all_batches(
    score_lines: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_lines, "_MIN_BATCH_BYTES", 2000)
    monkeypatch.setattr(scored_lines, "_MAX_BATCH_BYTES", 2000)
    notes: list[str] = []
    score_lines(b"A\nA\nb\n" * 60, new_totals(notes))
    assert len(notes) == 1 and "calibrate on recent" in notes[0]
    score_lines(b"A\nb\nb\nb\n" * 60, new_totals(notes))
    assert len(notes) == 1


def test_lines_that_break_every_answer_are_not_retried_forever(
    server: FakeServer, score_lines: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [1] + [0] * 100
    with pytest.raises(ServerUnreachable, match="closed the connection"):
        score_lines(b"A\nB\n", new_totals(patience_s=60))
    assert sum(body == b"B\n" for *_, body in server.requests) == 5


def test_a_service_that_never_answered_is_not_retried(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"A\n")
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable):
        list(client.score_source("fake", Lines(read_lines([str(tmp_path / "log")])), _OPTIONS, patience_s=60))


def test_another_model_that_answers_is_named() -> None:
    notes: list[str] = []
    totals = new_totals(notes)
    for model in ("m@1", "m@1", "m@2"):
        totals.add({"object": "score.start", "model": model})
    assert notes == ["m@2 now scores instead of m@1"]
