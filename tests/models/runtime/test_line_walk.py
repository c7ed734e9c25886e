"""Lines that a network finds likely: weighed, and found among many."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.requests import Caller
from nextchar.models.runtime.surprisal import continuation_bits
from nextchar.models.text.line_file import Lines, fold
from tests.models.runtime.networks import saved_model

CHARACTERS = "\nABab é\t"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(saved_model(kind="records", characters=CHARACTERS, int8=True, mixed_text="ab\nba\n" * 9))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def index() -> LineIndex:
    rng = random.Random(0)
    texts = {"".join(rng.choices("ABab é", k=rng.randint(1, 9))).strip() for _ in range(800)}
    contexts = {f"a b\t{text}" for text in list(texts)[:100]}
    lines = Lines.make(dict.fromkeys(texts | contexts, 1))
    assert lines
    return LineIndex(lines)


def walked(engine: Engine, index: LineIndex, prefix: str, *, context: str = "") -> list[str]:
    return [index.lines.text(i) for i in engine.likely_lines(index, prefix, context=context, wanted=20)]


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


def test_prompt_has_the_same_state_however_much_of_it_is_cached(engine: Engine) -> None:
    prompt = "aB b" * 50
    fresh = [engine.weigh_lines(prompt[:n], ["ab\n"], caller=Caller("fresh", str(n))) for n in range(200)]
    assert [engine.weigh_lines(prompt[:n], ["ab\n"]) for n in range(200)] == fresh
    assert [engine.weigh_lines(prompt[:n], ["ab\n"]) for n in range(199, -1, -1)] == fresh[::-1]
    scheduler = engine._fast_scheduler()
    hits = scheduler.cache.hit_characters
    engine.weigh_lines(prompt, ["ab\n"])
    engine.weigh_lines(prompt, ["ab\n"])
    assert scheduler.cache.hit_characters == hits + 2 * len(
        prompt
    )  # all, with the newline before them, but the last one


@pytest.mark.parametrize(("prefix", "context"), [("", ""), ("a", ""), ("É", ""), ("ba", ""), ("b", "a b\t")])
def test_walk_finds_the_likeliest_lines_of_a_prefix(
    engine: Engine, index: LineIndex, prefix: str, context: str
) -> None:
    found = walked(engine, index, prefix, context=context)
    texts = [index.lines.text(i) for i in range(len(index.lines))]
    fitting = [text for text in texts if fold(text).startswith(fold(context + prefix))]
    assert set(found) <= set(fitting)
    assert len(found) >= min(10, len(fitting))
    bits = dict(
        zip(fitting, engine.weigh_lines(context, [f"{t[len(context) :]}\n" for t in fitting]), strict=True)
    )
    best = sorted(fitting, key=bits.__getitem__)
    assert len(set(best[:10]) & set(found)) >= min(len(fitting), 10) // 2
    if 3 * len(found) < len(fitting):  # else nearly all are found
        assert sum(bits[text] for text in found) / len(found) < sum(bits.values()) / len(bits)


def test_walk_without_a_fitting_line_finds_nothing(engine: Engine, index: LineIndex) -> None:
    assert walked(engine, index, "zz") == []
    assert walked(engine, index, "a", context="other\t") == []
