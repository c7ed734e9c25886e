"""How a model's scorer reads lines, with an engine that says how it was asked."""

from typing import Any

import pytest

from nextchar.models.anomaly.scorer import Scorer
from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text.masks import Masks, ModelMasks
from nextchar.models.text.templates import Templates
from nextchar.models.text.vocabulary import Vocabulary
from tests.models.anomaly.surprisals import surprisal

TEXT = "".join(f"user {name} took {i % 90} items\n" for i in range(500) for name in ("ann", "bob"))


class Engine:
    """Every character costs 1 bit in float32 and 2 in int8."""

    has_fast = True
    vocabulary = Vocabulary(TEXT)

    def __init__(self) -> None:
        self.read: list[tuple[list[str], bool]] = []

    def line_surprisal(self, lines: list[str], *, fast: bool = False, check: Any) -> list[LineSurprisal]:
        check()
        self.read.append((lines, fast))
        return [surprisal([1.0 + fast] * len(line), end=1.0 + fast) for line in lines]

    def stream_surprisal(self, lines: list[str], state: Any, *, fast: bool, check: Any) -> Any:
        return self.line_surprisal(lines, fast=fast, check=check), (state or 0) + len(lines)


@pytest.fixture
def engine() -> Any:
    return Engine()


@pytest.mark.parametrize(
    ("precision", "has_fast", "asked", "bits"),
    [
        ("float32", True, [False], 1),
        ("fast", True, [True], 2),
        ("both", True, [True, False], 2),
        ("both", False, [True], 2),  # which such an engine reads in float32
    ],
)
def test_lines_are_read_masked_in_the_precision_that_is_asked_for(
    engine: Any, precision: Any, has_fast: bool, asked: list[bool], bits: int
) -> None:
    engine.has_fast, checks = has_fast, []
    scorer = Scorer(engine, ModelMasks(Masks(("numbers",))))
    lines = ["took 17 items", "no number"]
    found = scorer.read(lines, precision=precision, check=lambda: checks.append(1))
    assert engine.read == [([one.masked.text for one in found], fast) for fast in asked]
    assert [one.original for one in found] == lines and "17" not in found[0].masked.text
    assert [one.surprisal.bits.tolist() for one in found] == [[bits] * len(one.masked.text) for one in found]
    assert len(checks) == len(asked)


def test_float32_is_the_default(engine: Any) -> None:
    scorer = Scorer(engine, ModelMasks(Masks(())))
    [one] = scorer.read(["a"])
    [same], state = scorer.read_stream(["a"], None)
    assert one.surprisal.bits == same.surprisal.bits == 1 and state == 1
    [fast], state = scorer.read_stream(["ab"], state, fast=True)
    assert fast.surprisal.bits.tolist() == [2, 2] and state == 2
    assert [asked for _, asked in engine.read] == [False, False, True]


def test_a_line_without_its_surprisal_is_an_error(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "line_surprisal", lambda *_, **__: [surprisal([1.0])])
    with pytest.raises(ValueError, match="argument"):
        Scorer(engine, ModelMasks(Masks(()))).read(["a", "b"])


def test_characters_outside_the_vocabulary_make_no_new_template(engine: Any) -> None:
    names = ("ann", "bob", "eve")
    learned = [f"caf\ufffd opens for {name}" for name in names] * 9 + ["disk full"] * 27
    scorer = Scorer(engine, ModelMasks(Masks(())), templates=Templates.fit(learned))
    engine.vocabulary = Vocabulary("caf opens for ann bob eve disk full")
    found = [one.surprisal.parsed for one in scorer.read(["café opens for zoe", "cafè closes at Ñ"])]
    assert [one and (one.template.pattern, one.template.count) for one in found] == [
        ("caf\ufffd opens for <*>", 27),
        ("cafè closes at Ñ", 0),  # as people read it
    ]
