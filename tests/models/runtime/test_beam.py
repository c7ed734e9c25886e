import itertools
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from models.runtime.beam import BeamSearch, Hypothesis
from models.runtime.decoding import Ending
from models.runtime.engine import Engine
from models.runtime.requests import CompletionRequest
from tests.models.runtime.engine_calls import bits_of, complete, start
from tests.models.runtime.networks import saved_model


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(saved_model(characters="ab \n", seed=3))
    yield engine
    engine.close()


def test_beam_wider_than_the_tree_finds_the_best_of_all_texts(engine: Engine) -> None:
    texts = ["".join(t) for t in itertools.product("ab \n", repeat=3)]
    ranked = sorted(texts, key=lambda t: bits_of(engine, t, context="ab").sum())
    answer = complete(engine, "ab", beam=64, n=5, max_characters=3)
    assert [answer.text(i) for i in range(5)] == ranked[:5]
    for i in range(5):
        assert answer.finished(i).bits == pytest.approx(
            bits_of(engine, ranked[i], context="ab").sum(), abs=1e-3
        )
    assert answer.usage.completion_characters == 15


@pytest.mark.parametrize("penalty", [0.5, 1.0, 2.0])
def test_texts_of_different_lengths_are_ranked_by_their_bits_per_character(
    engine: Engine, penalty: float
) -> None:
    whole = ["".join(t) for n in range(4) for t in itertools.product("ab ", repeat=n)]
    taken = [text if len(text) == 3 else text + "\n" for text in whole]  # the line break counts, too

    def bits(text: str) -> float:
        return float(bits_of(engine, text, context="ab").sum())

    ranked = sorted(taken, key=lambda text: bits(text) / len(text) ** penalty)
    answer = complete(engine, "ab", beam=64, n=12, max_characters=3, until="line", length_penalty=penalty)
    assert [answer.text(i) for i in range(12)] == [text.rstrip("\n") for text in ranked[:12]]


def test_beam_of_one_is_greedy(engine: Engine) -> None:
    greedy = complete(engine, "ba", temperature=0, max_characters=25).text()
    assert complete(engine, "ba", beam=1, max_characters=25).text() == greedy


def test_beam_is_at_least_as_likely_as_greedy(engine: Engine) -> None:
    for prompt in ("a", "ab b", "\n", "bbb"):
        greedy = complete(engine, prompt, temperature=0, max_characters=8)
        beam = complete(engine, prompt, beam=16, max_characters=8)
        assert beam.finished().bits <= greedy.finished().bits + 1e-4


def test_each_hypothesis_finishes_by_itself(engine: Engine) -> None:
    answer = complete(engine, "ab", beam=8, n=8, max_characters=12, until="line", length_penalty=0)
    for i in range(8):
        finished = answer.finished(i)
        assert "\n" not in answer.text(i)
        assert finished.reason in {"line", "length"}
        assert finished.characters == len(answer.text(i)) <= 12
    assert "line" in {answer.finished(i).reason for i in range(8)}


def test_length_penalty_favors_longer_texts(engine: Engine) -> None:
    lengths = [
        complete(engine, "ab", beam=16, max_characters=12, until="line", length_penalty=p)
        .finished()
        .characters
        for p in (0.0, 3.0)
    ]
    assert lengths[0] < lengths[1]


def test_beam_returns_the_best_so_far_at_its_deadline(engine: Engine) -> None:
    answer = complete(engine, "ab", beam=64, max_characters=1_000_000, timeout_s=0.5)
    assert answer.finished().reason == "timeout"
    assert answer.text()


def test_beam_can_be_cancelled(engine: Engine) -> None:
    started = start(engine, "ab", beam=64, max_characters=1_000_000)
    assert started.ticket is not None
    started.ticket.cancel()
    assert started.answer().finished().reason == "cancelled"


def test_a_search_goes_on_while_a_longer_text_may_rank_higher() -> None:
    # At its greatest length the live text could have a score of -10 / 100.
    live, done = (
        Hypothesis("", (), total, taken, Ending(stop=(), until=None))
        for total, taken in ((-10.0, 2), (-0.5, 1))
    )
    options = CompletionRequest(prompt="", beam=1, max_characters=100, length_penalty=1.0)
    search = SimpleNamespace(options=options, _width=1, _live=[live], _done=[done])
    assert not BeamSearch._is_decided(search)  # type: ignore[arg-type]
    search.options = replace(options, max_characters=10)
    assert BeamSearch._is_decided(search)  # type: ignore[arg-type]
