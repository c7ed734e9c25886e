"""The n-gram model against a naive implementation."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.vocabulary import Vocabulary, unknown_bits


def _naive(text: str, context: str, c: str, known: int) -> float:
    """p(c | context) by the recursion in the module's docstring."""
    lower = _naive(text, context[1:], c, known) if context else 1 / known
    after = Counter(
        text[i + len(context)] for i in range(len(text) - len(context)) if text.startswith(context, i)
    )
    seen, followers = after.total(), len(after)
    return (after[c] + followers * lower) / (seen + followers) if seen else lower


@pytest.mark.parametrize("alphabet", ["ab", "abcdefghijklmnopqrstuvwxyzäöüß"])
def test_surprisal_equals_that_of_the_recursion(alphabet: str) -> None:
    rng = np.random.default_rng(3)
    text = "".join(rng.choice(list(alphabet), 150))
    known = len(set(text))
    scored = "".join(rng.choice(sorted(set(text)), 30))
    bits = NgramModel.fit(text, order=4).surprisal(scored, context="a")
    read = "a" + scored
    for i, c in enumerate(scored, start=1):
        assert bits[i - 1] == pytest.approx(-np.log2(_naive(text, read[max(0, i - 3) : i], c, known)))


def test_probabilities_of_the_known_characters_sum_to_one() -> None:
    model = NgramModel.fit("the theory of the thing", order=5)
    assert model.vocabulary is not None
    for context in ("th", "the t", "zzz", ""):
        p = [2.0 ** -model.surprisal(c, context=context)[0] for c in model.vocabulary.characters]
        assert sum(p) == pytest.approx(1.0)


def test_an_unknown_character_has_a_fixed_cost_and_is_not_used_as_context() -> None:
    model = NgramModel.fit("abababab", order=3)
    bits = model.surprisal("bxb", context="a")
    assert bits[1] == unknown_bits(model.V)
    assert bits[2] == model.surprisal("b", context="")[0]


def test_unknown_characters_in_the_training_text_are_never_predicted() -> None:
    vocabulary = Vocabulary("ab")
    model = NgramModel.fit("axbxaxbx", order=2, vocabulary=vocabulary)
    p = [2.0 ** -model.surprisal(c, context="a")[0] for c in "ab"]
    assert sum(p) == pytest.approx(1.0)


def test_scoring_lines_together_equals_scoring_them_alone() -> None:
    model = NgramModel.fit("one line\nand another line\nand one more", order=5)
    lines = ["one more line", "", "x", "another"]
    together = model.surprisals(lines)
    assert [len(bits) for bits in together] == [len(line) for line in lines]
    for line, bits in zip(lines, together, strict=True):
        np.testing.assert_array_equal(bits, model.surprisal(line))
    assert model.surprisals([]) == []


def test_bits_by_order_equal_those_of_a_model_of_each_order() -> None:
    rng = np.random.default_rng(4)
    train, scored = rng.integers(0, 7, 400, np.int32), rng.integers(0, 7, 90, np.int32)
    by_order = NgramModel.fit_ids(train, size=7, order=4).bits_by_order(scored, before=train)
    for order in range(1, 5):
        alone = NgramModel.fit_ids(train, size=7, order=order).bits_by_order(scored, before=train)
        assert by_order[order - 1] == pytest.approx(alone[-1])


def test_a_text_may_be_shorter_than_the_order() -> None:
    assert NgramModel.fit("ab", order=6).surprisal("abab").shape == (4,)


def test_the_best_order_for_english_is_about_five(real_text: Callable[[str], str]) -> None:
    text = real_text("nietzsche.txt")[:120_000]
    vocabulary = Vocabulary(text)
    ids = vocabulary.encode(text)
    bits = NgramModel.fit_ids(ids[:100_000], size=len(vocabulary), order=7).bits_by_order(ids[100_000:])
    assert 3 <= int(bits.argmin()) + 1 <= 6
    assert bits.min() < 2.7 < bits[0] - 1
