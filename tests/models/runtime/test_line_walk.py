"""Lines that a network finds likely: weighed, and found among many."""

import queue
import random
from collections.abc import Iterator

import pytest

from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.line_index import LineIndex
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


def weighed(engine: Engine, prompt: str, continuations: list[str]) -> list[float]:
    results: queue.SimpleQueue[list[float] | Exception] = queue.SimpleQueue()
    engine.weigh(prompt, continuations, results.put)
    bits = results.get()
    assert isinstance(bits, list)
    return bits


def walked(
    engine: Engine, index: LineIndex, prefix: str, *, context: str = "", wanted: int = 20
) -> list[str]:
    results: queue.SimpleQueue[list[int] | Exception] = queue.SimpleQueue()
    engine.likely_lines(index, prefix, results.put, context=context, wanted=20)
    lines = results.get()
    assert isinstance(lines, list)
    return [index.lines.text(line) for line in lines]


def test_continuations_cost_what_the_network_says(engine: Engine) -> None:
    texts = ["ab\n", "é", "ab ab", "b\n", "ab\n"]
    expected = [
        -sum(one.logprob for one in engine.text_logprobs("aB" + text, top=0, expert="network")[2:])
        / 0.6931471805599453
        for text in texts
    ]
    assert weighed(engine, "aB", texts) == pytest.approx(expected, rel=0.05, abs=0.1)  # int8
    assert weighed(engine, "aB", []) == []


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
        zip(fitting, weighed(engine, context, [f"{t[len(context) :]}\n" for t in fitting]), strict=True)
    )
    best = sorted(fitting, key=bits.__getitem__)
    assert len(set(best[:10]) & set(found)) >= min(len(fitting), 10) // 2
    if 3 * len(found) < len(fitting):  # else nearly all are found
        assert sum(bits[text] for text in found) / len(found) < sum(bits.values()) / len(bits)


def test_walk_without_a_fitting_line_finds_nothing(engine: Engine, index: LineIndex) -> None:
    assert walked(engine, index, "zz") == []
    assert walked(engine, index, "a", context="other\t") == []
