import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.decoding import Adjustment, NoRepeat, adjustment_of
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest
from tests.models.runtime.engine_calls import bits_of, complete
from tests.models.runtime.networks import CHARACTERS, saved_model

V = 5


def adjusting(**options: object) -> Adjustment:
    found = adjustment_of(CompletionRequest(prompt="", **options), V, "", {})  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(saved_model())


def id_of(character: str) -> int:
    return "".join(sorted(CHARACTERS)).index(character) + 1


def test_request_without_options_has_no_adjustment() -> None:
    assert adjustment_of(CompletionRequest(prompt=""), V, "", {}) is None


def test_penalties_agree_with_the_formula() -> None:
    adjustment = adjusting(logit_bias=((2, 1.5), (4, -100)), presence_penalty=0.5, frequency_penalty=0.25)
    for taken in (1, 1, 3):
        adjustment.append("", taken)
    logits = np.array([9, 1, 2, 3, 4], np.float32)
    assert adjustment.apply(logits).tolist() == [9, 1 - 0.5 - 0.5, 3.5, 3 - 0.5 - 0.25, -96]
    assert logits.tolist() == [9, 1, 2, 3, 4]


def test_bias_bans_and_forces_characters(engine: Engine) -> None:
    forced = complete(engine, "abc", seed=1, logit_bias=((id_of("q"), 100),))
    assert set(forced.text()) == {"q"}
    banned = tuple((id_of(character), -100.0) for character in CHARACTERS if character not in "xy")
    assert set(complete(engine, "abc", seed=1, max_characters=60, logit_bias=banned).text()) == {"x", "y"}


def test_frequency_penalty_evens_out_the_characters(engine: Engine) -> None:
    plain = complete(engine, "abc", temperature=0, max_characters=100).text()
    penalised = complete(engine, "abc", temperature=0, max_characters=100, frequency_penalty=2.0).text()
    assert len(set(penalised)) > len(set(plain))


def test_reported_bits_are_the_networks_own(engine: Engine) -> None:
    answer = complete(engine, "\nabc", seed=1, max_characters=8, logit_bias=((id_of("q"), 100),))
    assert answer.finished().bits == pytest.approx(
        bits_of(engine, "qqqqqqqq", context="\nabc").sum(), abs=1e-3
    )


def test_adjusted_completion_is_the_same_in_any_batch(engine: Engine) -> None:
    alone = complete(engine, "abc", seed=3, frequency_penalty=1.0).text()
    together = complete(engine, "abc", seed=3, n=3, frequency_penalty=1.0)
    assert together.text(0) == alone
    assert len({together.text(i) for i in range(3)}) == 3


@pytest.mark.parametrize("an_id", [0, len(CHARACTERS) + 1, -1])
def test_bias_for_an_id_outside_the_vocabulary_is_refused(engine: Engine, an_id: int) -> None:
    with pytest.raises(InvalidInput, match="ids from 1 to") as refused:
        complete(engine, "abc", logit_bias=((an_id, 1.0),))
    assert refused.value.param == "logit_bias"


@pytest.mark.parametrize(
    "options", [{"presence_penalty": float("nan")}, {"logit_bias": ((1, float("inf")),)}]
)
def test_infinite_numbers_are_refused(engine: Engine, options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="finite"):
        complete(engine, "abc", **options)


def test_beam_refuses_bias_and_penalties(engine: Engine) -> None:
    for options in ({"logit_bias": ((1, 1.0),)}, {"presence_penalty": 1.0}, {"frequency_penalty": 1.0}):
        with pytest.raises(InvalidInput, match="beam"):
            complete(engine, "abc", beam=2, **options)


@given(st.text("ab?", max_size=12), st.text("ab", max_size=12), st.integers(1, 5))
def test_banned_are_the_characters_that_would_repeat_an_n_gram(prompt: str, written: str, size: int) -> None:
    ids = {"a": 1, "b": 2}
    no_repeat = NoRepeat(size, prompt, ids)
    for character in written:
        no_repeat.append(character, ids[character])
    text = prompt + written
    n_grams = {text[i : i + size] for i in range(len(text) - size + 1)}
    end = text[max(0, len(text) - size + 1) :]
    assert set(no_repeat.banned()) == {ids[c] for c in "ab" if end + c in n_grams}


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_a_character_takes_as_many_operations_in_a_long_text_as_in_a_short_one(size: int) -> None:
    counts = []
    for length in (100, 10_000):
        no_repeat = NoRepeat(size, "ab" * (length // 2), {"a": 1, "b": 2})
        counts.append(operations(lambda: (no_repeat.banned(), no_repeat.append("a", 1))))  # noqa: B023
        assert len(no_repeat._end) == size - 1 and len(no_repeat._followers) <= size + 1
    assert counts[0] == counts[1] < 200


def operations(call: Any) -> int:
    """Return how many bytecode instructions a call executes."""
    count, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
