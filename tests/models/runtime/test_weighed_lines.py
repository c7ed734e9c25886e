"""How likely a network finds the continuations of lines."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import Caller
from nextchar.models.runtime.surprisal import continuation_bits
from tests.models.runtime.networks import saved_model

CHARACTERS = "\nABab é\t"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(saved_model(kind="records", characters=CHARACTERS, int8=True, mixed_text="ab\nba\n" * 9))
    yield engine
    engine.close()


def test_continuations_cost_what_the_network_says(engine: Engine) -> None:
    texts = ["ab\n", "é", "ab ab", "b\n", "ab\n"]
    expected = [
        -sum(one.logprob for one in engine.text_logprobs("aB" + text, top=0, expert="network")[2:])
        / 0.6931471805599453
        for text in texts
    ]
    assert engine.weigh_lines("aB", texts) == pytest.approx(expected, rel=0.05, abs=0.1)  # int8
    assert engine.weigh_lines("aB", []) == []


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_continuations_have_the_bits_of_each_alone(engine: Engine, precision: str) -> None:
    network, rng = engine._networks[precision, "network"], random.Random(1)
    logits, state = network.step(np.array([[1], [2]], np.int32), network.initial_state(), 1)
    for _ in range(20):
        texts = ["".join(rng.choices("ab\n?", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 12))]
        ids = [engine.vocabulary.encode(text) for text in texts]
        alone = [continuation_bits(network, [one], logits[0, 0], state) for one in ids]
        assert continuation_bits(network, ids, logits[0, 0], state) == [bits for (bits,) in alone]


def test_prompt_has_the_same_state_however_much_of_it_is_cached(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.models.runtime.engine.MAX_WEIGHED", 0)
    engine._weighed.clear()
    prompt = "aB b" * 50
    fresh = [engine.weigh_lines(prompt[:n], ["ab\n"], caller=Caller("fresh", str(n))) for n in range(200)]
    assert [engine.weigh_lines(prompt[:n], ["ab\n"]) for n in range(200)] == fresh
    assert [engine.weigh_lines(prompt[:n], ["ab\n"]) for n in range(199, -1, -1)] == fresh[::-1]
    scheduler = engine._fast_scheduler()
    hits = scheduler.cache.hit_characters
    engine.weigh_lines(prompt, ["ab\n"])
    engine.weigh_lines(prompt, ["ab\n"])
    # All are found but the last one, with the newline that is read before them.
    assert scheduler.cache.hit_characters == hits + 2 * len(prompt)


def test_answers_that_are_kept_are_bounded_and_of_one_caller(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.models.runtime.engine.MAX_WEIGHED", 2)
    engine._weighed.clear()
    lookups = engine._fast_scheduler().cache.lookups
    bits = [engine.weigh_lines(prompt, ["ab\n"]) for prompt in ("a", "b", "a", "B", "a", "b")]
    assert bits[0] == bits[2] == bits[4] and bits[1] == bits[5] != bits[0]
    assert len(engine._weighed) == 2
    assert engine.weigh_lines("b", ["ab\n"], caller=Caller("other")) == bits[1]
    assert engine._fast_scheduler().cache.lookups == lookups + 5  # for a, b, B, b again, and the other's
