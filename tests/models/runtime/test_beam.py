import itertools
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nextchar.models.runtime.beam import BeamSearch, Hypothesis
from nextchar.models.runtime.decoding import Ending
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest, Event, Finished, Piece
from nextchar.models.text.vocabulary import Vocabulary
from tests.models.runtime.engine_calls import bits_of, complete
from tests.models.runtime.networks import saved_model

CHARACTERS = "\nabc"
P = np.array([0.1, 0.5, 0.25, 0.15])  # of these, whatever was read


class Constant:
    """A network of constant probabilities, which notes how many rows its steps have."""

    V = 5

    def __init__(self) -> None:
        self.rows: list[int] = []

    def initial_state(self, rows: int = 1) -> np.ndarray:
        return np.zeros((rows, 1), np.float32)

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        assert len(state) == ids.shape[1]
        self.rows.append(len(state))
        logits = np.log(np.array([9, *P], np.float32))
        return np.tile(logits, (len(ids) - first, len(state), 1)), state + ids.sum(0)[:, None]


class Search:
    """A beam search by hand, and its events."""

    def __init__(self, *, prompt: str = "ab", starts_line: bool | None = None, **options: Any) -> None:
        self.events: list[Event] = []
        self.network = Constant()
        id_of = {character: i for i, character in enumerate(CHARACTERS, 1)}
        line = {} if starts_line is None else {"starts_line": starts_line}
        self.search = BeamSearch(
            CompletionRequest(prompt=prompt, **options),
            Vocabulary(CHARACTERS),
            id_of,
            self.events.append,
            self.network,
            **line,
        )
        logits, state = self.network.step(np.array([[1]], np.int32), self.network.initial_state())
        assert self.search.begin(logits[0, 0], state) == []
        self.network.rows.clear()

    def run(self) -> list[tuple[str, str, float, int]]:
        """Return (text, reason, bits, characters) of each completion."""
        for _ in range(100):
            if self.search.advance():
                return self.found()
        raise AssertionError("it does not end")

    def found(self) -> list[tuple[str, str, float, int]]:
        texts = {event.index: event.text for event in self.events if isinstance(event, Piece)}
        return [
            (texts.get(event.index, ""), event.reason, round(event.bits, 3), event.characters)
            for event in self.events
            if isinstance(event, Finished)
        ]


def bits(text: str) -> float:
    return round(float(-sum(np.log2(P[CHARACTERS.index(character)]) for character in text)), 3)


@pytest.mark.parametrize(("width", "n"), [(1, 1), (2, 2), (4, 3), (16, 5)])
def test_a_beam_has_the_best_texts_and_no_more_hypotheses_than_its_width(width: int, n: int) -> None:
    search = Search(beam=width, n=n, max_characters=3)
    found = search.run()
    texts = ["".join(letters) for letters in itertools.product(CHARACTERS, repeat=3)]
    best = sorted(bits(text) for text in texts)[:n]
    assert [one[2] for one in found] == pytest.approx(best, abs=2e-3)
    assert len({one[0] for one in found}) == n
    assert all((reason, count, bits(text)) == ("length", 3, number) for text, reason, number, count in found)
    assert max(search.network.rows) == min(width, 16) and len(search.network.rows) == 2


def test_hypotheses_share_the_vocabulary_and_have_their_own_endings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vocabulary, "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    for options in ({"until": "word"}, {"stop": ("aba", "ba")}, {"until": "line", "stop": ("bc",)}):
        found = Search(beam=64, n=64, max_characters=3, **options).run()
        expected = set()
        for letters in itertools.product(CHARACTERS, repeat=3):
            ending = Ending(stop=options.get("stop", ()), until=options.get("until"))
            pushed = [ending.push(character) for character in letters]
            end, (unsettled, reason) = next(
                ((n, one) for n, one in enumerate(pushed, 1) if one[1]), (3, (0, "length"))
            )
            expected.add(("".join(letters[: end - unsettled]), reason))
        endings = {(text, reason) for text, reason, *_ in found} - {("", "length")}  # fillers
        assert endings <= expected and {text for text, _ in endings} == {text for text, _ in expected}


def test_a_text_that_ends_in_several_ways_is_one_completion_with_the_sum_of_their_probabilities() -> None:
    # Without its stop string each text is "" or begins with c, "a" and "b" end it.
    found = Search(beam=3, n=3, max_characters=8, stop=("a", "b", "\n"), length_penalty=0.0).run()
    assert found == [("", "stop", 0.0, 0), ("c", "stop", bits("c"), 1), ("cc", "stop", bits("cc"), 2)]
    search = Search(beam=3, n=1, max_characters=8, stop=("a", "b", "\n"), length_penalty=0.0)
    search.search.advance()
    assert search.search._done[0].total == pytest.approx(np.log(P[[0, 1, 2]].sum()))


@pytest.mark.parametrize(("starts_line", "text"), [(None, "ab"), (False, "ab"), (True, "\nab")])
def test_a_prompt_is_read_as_a_line_only_if_it_is_to_be(starts_line: bool | None, text: str) -> None:
    search = Search(beam=2, starts_line=starts_line).search
    assert search.text == text and search.is_self_stepping


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


@pytest.mark.parametrize("typed", [1, 3, 5])
def test_completions_of_typed_characters_begin_with_what_may_be_meant(engine: Engine, typed: int) -> None:
    options = {"n": 32, "beam": 32, "max_characters": 3, "until": "line", "length_penalty": 0}
    answer = complete(engine, "ab ba", typed=typed, **options)
    plain = complete(engine, "ab ba", **options)
    end = "ab ba"[-typed:]
    likely = [answer.text(i) for i in range(32)]
    exact = [text.removeprefix(end) for text in likely if text.startswith(end)]
    assert exact[:3] == [plain.text(i) for i in range(32)][: len(exact[:3])]
    first = likely.index(end + plain.text(0))
    assert answer.finished(first).bits >= plain.finished(0).bits - 1e-3  # the others have shares, too
    assert answer.usage.prompt_characters == 5


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
