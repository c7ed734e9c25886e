import numpy as np
import pytest

from nextchar.models.runtime import surprisal
from nextchar.models.runtime.session import Network
from nextchar.models.runtime.surprisal import (
    LineSurprisal,
    line_surprisal,
    stream_surprisal,
    text_logprobs,
    top_characters,
)
from nextchar.models.text.vocabulary import Vocabulary, unknown_bits
from tests.models.runtime.networks import CHARACTERS, numpy_step, random_weights, saved_model


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(saved_model().file("model.onnx"))


VOCABULARY = Vocabulary(CHARACTERS)
UNITS = [12, 12]


def score_lines(network: Network, vocabulary: Vocabulary, lines: list[str]) -> list[np.ndarray]:
    return [one.bits for one in line_surprisal(network, vocabulary, lines)]


def score_text(network: Network, vocabulary: Vocabulary, text: str, context: str = "\n") -> np.ndarray:
    return line_surprisal(network, vocabulary, [text], context=context)[0].bits


def naive_bits(text: str, context: str = "\n") -> list[float]:
    """Character by character, from the formula."""
    weights = random_weights(len(VOCABULARY), 5, UNITS)
    state, bits = np.zeros((1, 2 * sum(UNITS)), np.float32), []
    logits = np.zeros(len(VOCABULARY))
    for place, an_id in enumerate(VOCABULARY.encode(context + text)):
        if place >= len(context):
            p = np.exp(logits[1:].astype(float)) / np.exp(logits[1:].astype(float)).sum()
            bits.append(unknown_bits(len(VOCABULARY)) if an_id == 0 else -np.log2(p[an_id - 1]))
        step_logits, state = numpy_step(weights, np.array([[an_id]], np.int32), state)
        logits = step_logits[0, 0]
    return bits


@pytest.mark.parametrize("context", ["\n", "abc", "x" * 300])
def test_bits_are_what_the_formula_says(network: Network, context: str) -> None:
    text = "the fox, it's a é"
    np.testing.assert_allclose(
        score_text(network, VOCABULARY, text, context=context), naive_bits(text, context), atol=1e-4
    )


def test_unknown_character_costs_two_bits_more_than_a_uniform_guess(network: Network) -> None:
    text = "ab#c"
    bits = score_text(network, VOCABULARY, text)
    assert bits[2] == pytest.approx(np.log2(len(CHARACTERS)) + 2)
    np.testing.assert_allclose(bits, naive_bits(text), atol=1e-4)


def test_lines_side_by_side_have_the_bits_of_each_alone(network: Network) -> None:
    random = np.random.default_rng(0)
    lines = ["".join(random.choice(list(CHARACTERS), n)) for n in random.integers(0, 90, 150)] + ["", "a"]
    together = score_lines(network, VOCABULARY, lines)
    for line, bits in zip(lines, together, strict=True):
        np.testing.assert_array_equal(bits, score_text(network, VOCABULARY, line))


def test_slices_do_not_change_the_bits(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "all work and no play makes jack a dull boy. " * 20
    whole = score_text(network, VOCABULARY, text)
    monkeypatch.setattr(surprisal, "SLICE_LOGITS", 7 * network.V)
    np.testing.assert_array_equal(score_text(network, VOCABULARY, text), whole)


@pytest.mark.parametrize("slice_logits", [1 << 20, 200])
def test_log_probabilities_agree_with_the_bits(
    network: Network, monkeypatch: pytest.MonkeyPatch, slice_logits: int
) -> None:
    monkeypatch.setattr(surprisal, "SLICE_LOGITS", slice_logits)
    text = "the fox# jumps"
    predicted = text_logprobs(network, VOCABULARY, text, top=3, context="ab")
    assert "".join(one.character for one in predicted) == text
    bits = [-one.logprob / np.log(2) for one in predicted]
    np.testing.assert_allclose(bits, score_text(network, VOCABULARY, text, context="ab"), atol=1e-5)
    for one in predicted:
        assert len(one.top) == 3
        if one.character != "#":
            assert one.logprob <= one.top[0][1]
    assert text_logprobs(network, VOCABULARY, "a", top=0)[0].top == ()
    assert text_logprobs(network, VOCABULARY, "", top=1) == []


def test_top_characters_are_those_of_the_log_probabilities(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surprisal, "SLICE_LOGITS", 5 * network.V)
    text = "the fox# jumps"
    for top in (3, len(CHARACTERS) + 9):
        predicted = text_logprobs(network, VOCABULARY, text, top=top, context="ab")
        found = top_characters(network, VOCABULARY, text, top=top, context="ab")
        for one, ids, logprobs in zip(predicted, found.ids.tolist(), found.logprobs.tolist(), strict=True):
            assert one.top == tuple(zip(VOCABULARY.decode(ids), logprobs, strict=True))
    assert top_characters(network, VOCABULARY, "", top=2).ids.shape == (0, 2)


def test_empty_context_stands_for_a_newline(network: Network) -> None:
    np.testing.assert_array_equal(
        score_text(network, VOCABULARY, "abc", context=""), score_text(network, VOCABULARY, "abc")
    )


def lines_with_common_prefixes() -> list[str]:
    """Lines with common prefixes, up to positions on both sides of where rows are compared."""
    random = np.random.default_rng(2)
    start = "dec ten the host says in a long line that, "
    ends = ["".join(random.choice(list(CHARACTERS.replace("\n", "")), n)) for n in random.integers(0, 40, 30)]
    return [start[:cut] + end for cut in (0, 15, 16, 17, 32, 43) for end in ends] + [
        start,
        start[:16],
        start,
        "",
    ]


def test_lines_with_a_common_prefix_have_the_bits_of_each_alone(network: Network) -> None:
    lines = lines_with_common_prefixes()
    together = line_surprisal(network, VOCABULARY, lines, with_end=True)
    for line, one in zip(lines, together, strict=True):
        [alone] = line_surprisal(network, VOCABULARY, [line], with_end=True)
        np.testing.assert_allclose(one.bits, alone.bits, atol=1e-5)
        np.testing.assert_allclose(one.entropy, alone.entropy, atol=1e-5)
        assert (one.end_bits, one.end_entropy) == pytest.approx((alone.end_bits, alone.end_entropy), abs=1e-5)
        np.testing.assert_allclose([*one.bits, one.end_bits], naive_bits(line + "\n"), atol=1e-4)


def test_line_that_has_ended_is_not_shared_with_the_next(network: Network) -> None:
    lines = ["a" * 18, "b" * 17, "b" * 18]
    for line, bits in zip(lines, score_lines(network, VOCABULARY, lines), strict=True):
        np.testing.assert_allclose(bits, score_text(network, VOCABULARY, line), atol=1e-5)


def test_common_prefix_is_read_once(network: Network) -> None:
    steps = []

    class Counting:
        V = network.V
        initial_state = staticmethod(network.initial_state)

        @staticmethod
        def step(ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
            steps.append(ids.size)
            return network.step(ids, state, first)

    line_surprisal(Counting(), VOCABULARY, ["a long line, the same for all of them"] * 200)
    assert sum(steps) < 2 * 48


def test_order_of_lines_changes_nothing(network: Network) -> None:
    lines = lines_with_common_prefixes()
    forwards = line_surprisal(network, VOCABULARY, lines)
    backwards = line_surprisal(network, VOCABULARY, lines[::-1])[::-1]
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_allclose(one.bits, other.bits, atol=1e-5)


def test_entropy_is_the_expectation_of_the_bits(network: Network) -> None:
    [one] = line_surprisal(network, VOCABULARY, ["ab"])
    predicted = text_logprobs(network, VOCABULARY, "ab", top=len(CHARACTERS))
    for entropy, place in zip(one.entropy, predicted, strict=True):
        p = np.exp([logprob for _, logprob in place.top])
        assert entropy == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-4)


def test_continued_stream_equals_one_text(network: Network) -> None:
    lines = ["the fox", "", "a#b", "jumps " * 60]
    whole = score_text(network, VOCABULARY, "\n".join(lines) + "\n")
    first, state = stream_surprisal(network, VOCABULARY, lines[:2], None)
    rest, _ = stream_surprisal(network, VOCABULARY, lines[2:], state)
    bits = np.concatenate([[*one.bits, one.end_bits] for one in (*first, *rest)])
    np.testing.assert_allclose(bits, whole, atol=1e-4)
    _, same = stream_surprisal(network, VOCABULARY, [], state)
    np.testing.assert_array_equal(same, state)


def test_the_newline_is_read_only_if_it_is_asked_for_and_known(network: Network) -> None:
    empty = LineSurprisal(np.empty(0, np.float32), np.empty(0, np.float32))
    [without] = line_surprisal(network, VOCABULARY, ["abc"])
    for one in (empty, without):
        assert (one.has_end, one.end_bits, one.end_entropy) == (False, 0.0, 0.0)
    [with_end] = line_surprisal(network, VOCABULARY, ["abc"], with_end=True)
    assert with_end.has_end and with_end.end_entropy > 0
    np.testing.assert_allclose([*with_end.bits, with_end.end_bits], naive_bits("abc\n"), atol=1e-4)
    np.testing.assert_array_equal(with_end.bits, without.bits)


def test_a_network_without_newlines_reads_lines_without_their_end() -> None:
    saved = saved_model(characters="abc ")
    other, vocabulary = Network(saved.file("model.onnx")), saved.vocabulary
    [line] = line_surprisal(other, vocabulary, ["abc"], with_end=True)
    assert not line.has_end and len(line.bits) == 3
    [first, second], _ = stream_surprisal(other, vocabulary, ["ab", "c"], None)
    assert not first.has_end and not second.has_end
    assert (len(first.bits), len(second.bits)) == (2, 1)


def test_the_entropy_of_a_stream_is_that_of_its_lines_after_one_another(network: Network) -> None:
    lines = ["ab", "", "the fox"]
    read, _ = stream_surprisal(network, VOCABULARY, lines, None)
    [whole] = line_surprisal(network, VOCABULARY, ["\n".join(lines) + "\n"])
    entropy = np.concatenate([[*one.entropy, one.end_entropy] for one in read])
    np.testing.assert_allclose(entropy, whole.entropy, atol=1e-5)
    assert all(one.has_end and one.entropy.dtype == one.bits.dtype == np.float32 for one in read)


def test_certain_and_impossible_characters_have_bits_of_0_and_more() -> None:
    logits = np.array([[[5, 100, 0, 0]], [[5, 0, 0, 0]]], np.float32)  # (T, 1, V)
    bits, entropy = surprisal._measure(logits, np.zeros(1, np.intp), np.array([[1], [2]]))
    np.testing.assert_allclose(bits[:, 0], [0, np.log2(3)], atol=1e-6)
    np.testing.assert_allclose(entropy[:, 0], [0, np.log2(3)], atol=1e-6)
    bits, _ = surprisal._measure(logits, np.zeros(1, np.intp), np.array([[2], [0]]))
    np.testing.assert_allclose(bits[:, 0], [100 / np.log(2), unknown_bits(4)], rtol=1e-5)
