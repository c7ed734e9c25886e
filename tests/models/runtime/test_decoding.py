import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.models.runtime.decoding import (
    MAX_SORTED_CHARACTERS,
    Ending,
    Sampler,
    StopMatcher,
    entropy_bits,
    largest,
    likeliest,
    log_softmax,
    logprobs_of,
    uniforms,
)
from nextchar.models.runtime.requests import CompletionRequest


def _request(**options: Any) -> CompletionRequest:
    return CompletionRequest(prompt="", **options)


def naive_choice(logits: np.ndarray, u: float, request: CompletionRequest) -> set[int]:
    """The ids that `u` may choose; two if `u` is at an edge."""
    if request.temperature == 0:
        return {max(range(1, len(logits)), key=lambda i: logits[i])}
    largest = float(logits[1:].max())
    weight = {i: math.exp((float(z) - largest) / request.temperature) for i, z in enumerate(logits) if i}
    ranked = sorted(weight, key=lambda i: -weight[i])
    filtered = False
    if request.top_k:
        ranked, filtered = ranked[: request.top_k], True
    if request.top_p is not None and request.top_p < 1:
        total, kept, reached = sum(weight[i] for i in ranked), [], 0.0
        for i in ranked:
            if reached >= request.top_p * total:
                break
            kept.append(i)
            reached += weight[i]
        ranked, filtered = kept, True
    if request.min_p:
        ranked, filtered = [i for i in ranked if weight[i] >= request.min_p * weight[ranked[0]]], True
    order = ranked if filtered else sorted(ranked)
    total, reached, found = sum(weight[i] for i in order), 0.0, set()
    for i in order:
        low, reached = reached, reached + weight[i]
        if low - 1e-5 * total <= u * total <= reached + 1e-5 * total:
            found.add(i)
    return found


requests = st.builds(
    _request,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 12),
    # Values that no cumulative sum of the weights equals.
    top_p=st.none() | st.sampled_from([0.123457, 0.618034, 0.912345, 1.0]),
    min_p=st.none() | st.sampled_from([0.0, 0.0123457, 0.3123457]),
)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.lists(requests, min_size=1, max_size=6))
def test_sampler_chooses_what_a_naive_loop_does(seed: int, rows: list[CompletionRequest]) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (len(rows), 9)).astype(np.float32)
    u = random.random(len(rows)).tolist()
    chosen = Sampler(rows, 9).choose(logits, u)
    for row, request in enumerate(rows):
        assert chosen[row] in naive_choice(logits[row], u[row], request)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), requests, st.sampled_from([0.5, 2, 6]))
def test_large_alphabet_is_filtered_as_a_naive_loop_does(
    seed: int, request: CompletionRequest, spread: float
) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (1, MAX_SORTED_CHARACTERS + 50)).astype(np.float32)
    u = random.random()
    (chosen,) = Sampler([request], MAX_SORTED_CHARACTERS + 50).choose(logits, [u])
    assert chosen in naive_choice(logits[0], u, request)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.lists(requests, min_size=2, max_size=20), st.sampled_from([3, 40, 301]))
def test_row_chooses_the_same_alone_and_in_any_batch(
    seed: int, rows: list[CompletionRequest], vocabulary_size: int
) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (len(rows), vocabulary_size)).astype(np.float32)
    u = random.random(len(rows)).tolist()
    together = Sampler(rows, vocabulary_size).choose(logits, u)
    alone = [
        Sampler([row], vocabulary_size).choose(logits[i : i + 1], u[i : i + 1])[0]
        for i, row in enumerate(rows)
    ]
    assert together == alone


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 3}, {"temperature": 1e-30}])
@pytest.mark.parametrize("count", [1, 3])
def test_id_zero_is_never_chosen_however_likely(options: dict[str, Any], count: int) -> None:
    logits = np.zeros((count, 5), np.float32)
    logits[:, 0] = 1e4
    sampler = Sampler([_request(**options)] * count, 5)
    for u in (0.0, 0.5, 1 - 2**-52):
        assert all(1 <= chosen < 5 for chosen in sampler.choose(logits, [u] * count))


def test_samples_follow_the_distribution() -> None:
    logits = np.log(np.array([[1, 1, 2, 5, 2]], np.float32))
    sampler = Sampler([_request()], 5)
    chosen = [sampler.choose(logits, [u])[0] for u in uniforms(3, 0, 0, 20_000).tolist()]
    shares = np.bincount(chosen, minlength=5)[1:] / 20_000
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.5, 0.2], atol=0.012)


def test_random_numbers_are_uniform_and_uncorrelated_between_seeds_and_completions() -> None:
    streams = np.stack([uniforms(seed, index, 0, 4000) for seed in (0, 1, 2**63 - 1) for index in (0, 1, 2)])
    assert ((streams >= 0) & (streams < 1)).all()
    for stream in streams:
        counts, _ = np.histogram(stream, 20, (0, 1))
        assert ((counts - 200) ** 2 / 200).sum() < 50  # chi-square, 19 degrees of freedom
    assert np.abs(np.corrcoef(streams) - np.eye(9)).max() < 0.07


def split_mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


@pytest.mark.parametrize(
    ("seed", "index", "start"), [(0, 0, 0), (1, 0, 5), (2**63 - 1, 3, 0), (7, 63, 10**6)]
)
def test_random_numbers_of_a_seed_are_those_of_earlier_releases(seed: int, index: int, start: int) -> None:
    golden = 0x9E3779B97F4A7C15
    key = split_mix((seed * golden + 1) % 2**64)
    key = split_mix(key ^ ((index + 1) * 0xD1B54A32D192ED03 % 2**64))
    expected = [(split_mix((key + (start + i) * golden) % 2**64) >> 12) / 2**52 for i in range(1, 4)]
    assert uniforms(seed, index, start, 3).tolist() == expected


def test_random_numbers_depend_on_position_only() -> None:
    whole = uniforms(5, 2, 0, 100)
    np.testing.assert_array_equal(np.concatenate([uniforms(5, 2, 0, 37), uniforms(5, 2, 37, 63)]), whole)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-6])
def test_lowest_temperatures_choose_the_likeliest(temperature: float) -> None:
    logprobs = log_softmax(np.array([[0, -3, 20, 19]], np.float32), temperature=temperature)
    np.testing.assert_array_equal(np.exp(logprobs), [[0, 1, 0]])
    assert str(entropy_bits(logprobs)[0]) == "0.0"


def test_logprobs_and_entropy_by_hand() -> None:
    logits = np.log(np.array([[7, 1, 1, 2]], np.float32))  # id 0 does not count
    logprobs = log_softmax(logits)
    np.testing.assert_allclose(np.exp(logprobs), [[0.25, 0.25, 0.5]], atol=1e-6)
    assert entropy_bits(logprobs)[0] == pytest.approx(1.5)
    assert likeliest(logprobs[0], 2) == [
        (3, pytest.approx(math.log(0.5))),
        (1, pytest.approx(math.log(0.25))),
    ]
    assert logprobs_of(logits[None], np.array([[3]]))[0, 0] == pytest.approx(math.log(0.5))


@given(
    st.lists(st.sampled_from([-math.inf, -2.5, -0.0, 0.0, math.nan]) | st.floats(), min_size=1, max_size=30),
    st.integers(0, 40),
)
def test_the_largest_are_the_first_of_a_stable_sort(numbers: list[float], count: int) -> None:
    values = np.array(numbers)
    assert largest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_log_probabilities_of_chosen_ids_are_those_of_log_softmax() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (3, 2, 5)).astype(np.float32)
    ids = np.array([[1, 4], [2, 2], [3, 1]])
    expected = np.take_along_axis(log_softmax(logits), ids[..., None] - 1, -1)[..., 0]
    np.testing.assert_allclose(logprobs_of(logits, ids), expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 3}])
@pytest.mark.parametrize("count", [1, 3])
def test_large_logits_do_not_overflow(options: dict[str, Any], count: int) -> None:
    small = np.tile(np.array([0, 1, -2, 3, 2], np.float32), (count, 1))
    sampler = Sampler([_request(**options)] * count, 5)
    for u in (0.1, 0.5, 0.9):
        assert sampler.choose(small + 300, [u] * count) == sampler.choose(small, [u] * count)
    ids = np.arange(1, 1 + count)
    np.testing.assert_array_equal(logprobs_of(small + 300, ids), logprobs_of(small, ids))


texts = st.text("ab\n ", max_size=30)


@given(texts, st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=3))
def test_stop_strings_agree_with_a_naive_search(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    for end, character in enumerate(text, 1):
        held, found = matcher.push(character)
        so_far = text[:end]
        matches = [len(stop) for stop in stops if so_far.endswith(stop)]
        assert found == bool(matches)
        if matches:
            assert held == max(matches)
            return
        partial = [n for stop in stops for n in range(1, len(stop)) if so_far.endswith(stop[:n])]
        assert held == max(partial, default=0)


def _run(text: str, ending: Ending) -> tuple[str, str | None]:
    for end, character in enumerate(text, 1):
        unsettled, reason = ending.push(character)
        if reason:
            return text[: end - unsettled], reason
    return text, None


@pytest.mark.parametrize(
    ("text", "kept"),
    [("osophy is", "osophy"), (" is a", " is"), ("...\nwell, then", "...\nwell"), ("don't.", "don't")],
)
def test_until_word_ends_after_the_first_word(text: str, kept: str) -> None:
    assert _run(text, Ending(stop=(), until="word")) == (kept, "word")


def test_until_line_ends_before_the_line_break() -> None:
    assert _run("ab c\nd", Ending(stop=(), until="line")) == ("ab c", "line")
    assert _run("\r\n", Ending(stop=(), until="line")) == ("", "line")
