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
def told(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    monkeypatch.setattr(batch_scoring, "_FIRST_RETRY_S", 0.01)

    def run(data: bytes, said: list[str], totals: Totals, *, patience_s: float = 5.0) -> list[int]:
        (tmp_path / "log").write_bytes(data)
        with Client(server.url) as client:
            batches = Batches([str(tmp_path / "log")])
            scored = score_all(
                client, "fake", batches, _OPTIONS, totals, say=said.append, patience_s=patience_s
            )
            return [record["line"] for _, record in scored]

    return run


def test_what_was_answered_before_a_break_is_not_sent_again(
    server: FakeServer, told: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [2, 0, None]
    said: list[str] = []
    totals = Totals()
    assert told(b"A\nb\nC\nd\nE\nf\n", said, totals) == [1, 3, 5]
    sent = [body for method, path, _, body in server.requests if path.endswith("/score") and method == "POST"]
    assert sent == [b"A\nb\nC\nd\nE\nf\n", b"d\nE\nf\n", b"d\nE\nf\n"]
    assert (totals.lines, totals.anomalous) == (6, 3)
    assert "3 lines wait" in said[0] and "is back" in said[-1]


def test_a_busy_service_is_asked_again_and_a_refusal_is_final(
    server: FakeServer, told: Callable[..., list[int]]
) -> None:
    server.refusals = [429, 503]
    assert told(b"A\n", [], Totals()) == [1]
    server.refusals = [422]
    with pytest.raises(ServerError, match="much to do"):
        told(b"A\n", [], Totals())


def test_patience_ends(server: FakeServer, told: Callable[..., list[int]]) -> None:
    server.refusals = [503] * 1000
    with pytest.raises(ServerError, match="much to do"):
        told(b"A\n", [], Totals(), patience_s=0.05)


def test_lines_that_have_changed_are_told_once_over_all_batches(
    told: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_scoring, "_LEAST_BYTES", 40)
    monkeypatch.setattr(batch_scoring, "_MOST_BYTES", 40)
    said: list[str] = []
    told(b"A\nA\nb\n" * 60, said, Totals())
    assert len(said) == 1 and "calibrate on recent" in said[0]
    told(b"A\nb\nb\nb\n" * 60, said, Totals())
    assert len(said) == 1


def test_lines_at_which_every_answer_breaks_are_given_up(
    server: FakeServer, told: Callable[..., list[int]]
) -> None:
    server.cut_scores_after = [1] + [0] * 100
    with pytest.raises(ServerUnreachable, match="broke"):
        told(b"A\nB\n", [], Totals(), patience_s=60)
    assert sum(body == b"B\n" for *_, body in server.requests) == 5


def test_a_service_that_was_never_there_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"A\n")
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServerUnreachable):
        list(
            score_all(
                client,
                "fake",
                Batches([str(tmp_path / "log")]),
                _OPTIONS,
                Totals(),
                say=lambda _: None,
                patience_s=60,
            )
        )


def test_places_are_those_of_the_file(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ab\n" * 40_000 + b"cd\xff\n")
    with Client(server.url) as client:
        scored = list(
            score_all(
                client,
                "fake",
                Batches([str(tmp_path / "log")]),
                _OPTIONS,
                Totals(),
                say=lambda _: None,
                patience_s=1,
            )
        )
    ((line, record),) = scored
    assert (line.number, record["line"], record["offset"]) == (40_001, 40_001, 120_000)
    assert record["not_utf8"]["offset"] == 120_002
