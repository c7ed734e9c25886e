import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import quantize
from nextchar.models.errors import Unavailable
from nextchar.models.runtime.engine import Engine, _cache_limits
from nextchar.models.runtime.lstm_network import LstmNetwork
from nextchar.models.runtime.model_networks import NetworkKey
from nextchar.models.runtime.requests import CompletionRequest, Event, Failed, Finished, Piece, Usage
from nextchar.models.runtime.session import Network
from nextchar.models.saved_model import SavedModel, describe_files
from tests.models.runtime.engine_calls import bits_of, complete, predict, start
from tests.models.runtime.networks import CHARACTERS, saved_model


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(saved_model())
    yield engine
    engine.close()


def test_the_cache_is_shared_out_and_a_mixture_gets_most() -> None:
    assert _cache_limits([("float32", "network")], 800) == {("float32", "network"): 800}
    both: list[NetworkKey] = [("int8", "network"), ("int8", "mixture")]
    assert _cache_limits(both, 807) == {("int8", "network"): 100, ("int8", "mixture"): 706}


def naive_greedy(prompt: str, characters: int) -> str:
    """Read the whole text for every character."""
    saved = saved_model()
    network = Network(saved.file("model.onnx"))
    text = prompt or "\n"
    start = len(text)
    while len(text) < start + characters:
        logits, _ = network.step(saved.vocabulary.encode(text)[:, None], network.initial_state())
        text += saved.vocabulary.characters[int(logits[-1, 0, 1:].argmax())]
    return text[start:]


@pytest.mark.parametrize("prompt", ["", "a", "hello wor", "the quick brown fox " * 15])
def test_greedy_completion_is_the_likeliest_character_each_time(engine: Engine, prompt: str) -> None:
    answer = complete(engine, prompt, temperature=0, max_characters=12)
    assert answer.text() == naive_greedy(prompt, 12)
    assert answer.finished() == Finished(0, "length", answer.finished().bits, 12)
    assert answer.usage.prompt_characters == len(prompt)
    assert answer.usage.completion_characters == 12


@pytest.mark.parametrize("beam", [None, 3])
def test_the_model_of_records_reads_prompts_at_the_start_of_a_line(engine: Engine, beam: int | None) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_characters": 12}
    if beam:
        options = {"temperature": 1, "max_characters": 12, "beam": beam}
    records = Engine(saved_model(kind="records"))
    try:
        for prompt in ("", "a", "hello wor", "ab\ncd", "the quick brown fox " * 15):
            for _ in range(2):  # the second time from the cache
                answer = complete(records, prompt, **options)
                assert answer.text() == complete(engine, "\n" + prompt, **options).text()
                usage = answer.usage
                assert usage.prompt_characters == len(prompt)
                assert 0 <= usage.cached_characters <= len(prompt)
            assert predict(records, prompt, top=5) == predict(engine, "\n" + prompt, top=5)
        same = complete(records, "\nab", **options)
        assert same.text() == complete(engine, "\nab", **options).text()  # it has its newline already
        assert same.usage.prompt_characters == 3
    finally:
        records.close()


def test_bits_and_log_probabilities_agree_with_the_surprisal(engine: Engine) -> None:
    answer = complete(engine, "ab", max_characters=30, seed=5, temperature=1.7, logprobs=2)
    expected = bits_of(engine, answer.text(), context="ab")
    described = [one for e in answer.events if isinstance(e, Piece) for one in e.logprobs]
    assert "".join(one.character for one in described) == answer.text()
    np.testing.assert_allclose([-one.logprob / np.log(2) for one in described], expected, atol=1e-4)
    assert answer.finished().bits == pytest.approx(expected.sum(), abs=1e-3)
    assert all(len(one.top) == 2 and one.top[0][1] >= one.top[1][1] for one in described)
    assert complete(
        engine, "ab", max_characters=30, seed=5, temperature=1.7
    ).finished().bits == pytest.approx(expected.sum(), abs=1e-3)


def test_same_seed_gives_same_text_and_another_seed_another(engine: Engine) -> None:
    first, again, other = (complete(engine, "abc", max_characters=40, seed=s).text() for s in (1, 1, 2))
    assert first == again != other


def test_completions_of_one_request_differ_and_do_not_depend_on_their_number(engine: Engine) -> None:
    three = complete(engine, "abc", max_characters=40, seed=1, n=3)
    texts = [three.text(i) for i in range(3)]
    assert len(set(texts)) == 3
    assert complete(engine, "abc", max_characters=40, seed=1).text() == texts[0]


def _varied_requests(count: int) -> list[CompletionRequest]:
    random = np.random.default_rng(0)
    varieties: list[dict[str, Any]] = [
        {}, {"temperature": 0.5}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.8, "temperature": 1.4},
        {"min_p": 0.2}, {"n": 3}, {"until": "word"}, {"stop": ("e", "ab")}, {"logprobs": 1},
        {"stream": False}, {"no_repeat": 3}, {"until": "confidence", "confidence_bits": 4.0},
    ]  # fmt: skip
    shared = "".join(random.choice(list(CHARACTERS), 400))
    return [
        CompletionRequest(
            prompt=shared[: random.integers(0, 400)] + "abc"[: i % 4],
            max_characters=int(random.integers(1, 30)),
            seed=i,
            **varieties[i % len(varieties)],
        )
        for i in range(count)
    ]


def _texts(events: list[Event], n: int) -> list[str]:
    assert isinstance(events[-1], Usage), events[-1]
    return ["".join(e.text for e in events if isinstance(e, Piece) and e.index == i) for i in range(n)]


@pytest.mark.parametrize("int8", [False, True])
def test_same_seed_gives_same_text_under_load(int8: bool) -> None:
    requests = _varied_requests(1000)
    alone = Engine(saved_model(int8=int8), cache_bytes=0)
    loaded = Engine(saved_model(int8=int8), cache_bytes=200_000, max_waiting=len(requests))
    events: list[list[Event]] = [[] for _ in requests]
    over = threading.Semaphore(0)

    def listener(mine: list[Event]) -> Any:
        def on_event(event: Event) -> None:
            mine.append(event)
            if isinstance(event, Usage | Failed):
                over.release()

        return on_event

    for i in np.random.default_rng(1).permutation(len(requests)):
        loaded.complete(requests[i], listener(events[i]))
    for _ in requests:
        assert over.acquire(timeout=500)
    assert loaded.stats()["cache_hit_characters"] > 0
    assert loaded.stats()["active"] == loaded.stats()["waiting"] == 0
    loaded.close()
    for request, under_load in zip(requests, events, strict=True):
        assert sum(isinstance(event, Usage) for event in under_load) == 1
        by_itself: list[Event] = []
        alone.complete(request, listener(by_itself))
        assert over.acquire(timeout=500)
        assert _texts(by_itself, request.n) == _texts(under_load, request.n), request
        bits = [[e.bits for e in some if isinstance(e, Finished)] for some in (by_itself, under_load)]
        np.testing.assert_allclose(sorted(bits[0]), sorted(bits[1]), atol=1e-4)
    alone.close()


def test_cached_equals_uncached() -> None:
    cached, uncached = Engine(saved_model()), Engine(saved_model(), cache_bytes=0)
    text = "".join(np.random.default_rng(3).choice(list(CHARACTERS), 300))
    for length in (300, 299, 140, 141, 300, 64, 65, 128, 1):
        answers = [complete(e, text[:length], max_characters=9, seed=length) for e in (cached, uncached)]
        assert answers[0].text() == answers[1].text()
        assert answers[1].usage.cached_characters == 0
        assert answers[0].finished().bits == pytest.approx(answers[1].finished().bits)
    cached.close()
    uncached.close()


def test_one_more_character_costs_one_step() -> None:
    engine = Engine(saved_model())
    text = "".join(np.random.default_rng(3).choice(list(CHARACTERS), 10_000))
    complete(engine, text, max_characters=1)
    for _ in range(70):
        text += "a"
        usage = complete(engine, text, max_characters=1).usage
        assert usage.cached_characters == usage.prompt_characters - 1
    assert complete(engine, text, max_characters=1).usage.cached_characters == len(text) - 1
    edited = text[:-500] + "x" + text[-499:]
    assert complete(engine, edited, max_characters=1).usage.cached_characters >= len(text) - 500 - 64
    engine.close()


def test_stop_string_is_held_back_and_cut(engine: Engine) -> None:
    free = complete(engine, "q", max_characters=40, seed=11).text()
    stop = free[20:23]
    answer = complete(engine, "q", max_characters=40, seed=11, stop=("#", stop))
    expected = free[: free.index(stop)]
    assert (answer.text(), answer.finished().reason) == (expected, "stop")
    assert answer.finished().characters == len(expected)
    assert answer.finished().bits == pytest.approx(bits_of(engine, expected, context="q").sum(), abs=1e-3)
    # Text that was streamed is never cut off later.
    so_far = ""
    for event in answer.events:
        so_far += event.text if isinstance(event, Piece) else ""
        assert expected.startswith(so_far)


def test_partial_stop_string_is_sent_at_the_end(engine: Engine) -> None:
    free = complete(engine, "q", max_characters=10, seed=11).text()
    answer = complete(engine, "q", max_characters=10, seed=11, stop=(free[-2:] + "#",))
    assert (answer.text(), answer.finished().reason) == (free, "length")


def test_until_line_and_word_finish_at_their_boundary(engine: Engine) -> None:
    line = complete(engine, "q", max_characters=2000, seed=1, until="line")
    assert line.finished().reason == "line"
    assert "\n" not in line.text()
    word = complete(engine, "q", max_characters=2000, seed=1, until="word")
    assert word.finished().reason == "word"
    assert word.text().strip(" \n.,")


def test_until_confidence_finishes_before_an_unsure_step(engine: Engine) -> None:
    bound = predict(engine, "q", top=1).entropy_bits
    at_once = complete(engine, "q", until="confidence", confidence_bits=bound - 0.01, seed=1)
    assert (at_once.text(), at_once.finished().reason) == ("", "confidence")
    one_more = complete(engine, "q", until="confidence", confidence_bits=bound + 0.01, seed=1)
    assert one_more.text()


def test_no_repeat_never_writes_a_run_twice(engine: Engine) -> None:
    text = "abab" + complete(engine, "abab", temperature=0, max_characters=80, no_repeat=3).text()
    runs = [text[i : i + 3] for i in range(len(text) - 2)]
    assert len(set(runs[2:])) == len(runs[2:])


def test_without_streaming_each_completion_is_one_piece(engine: Engine) -> None:
    streamed = complete(engine, "abc", seed=4, n=2)
    whole = complete(engine, "abc", seed=4, n=2, stream=False)
    assert [whole.text(i) for i in range(2)] == [streamed.text(i) for i in range(2)]
    assert sum(isinstance(e, Piece) for e in whole.events) == 2
    assert sum(isinstance(e, Piece) for e in streamed.events) == 80


def test_prediction_is_the_distribution_that_completions_are_sampled_from(engine: Engine) -> None:
    distribution = predict(engine, "hello", top=1000)
    assert len(distribution.candidates) == len(CHARACTERS)
    assert sum(p for _, p in distribution.candidates) == pytest.approx(1)
    bits = {c: bits_of(engine, c, context="hello")[0] for c, _ in distribution.candidates}
    for character, p in distribution.candidates:
        assert -np.log2(p) == pytest.approx(bits[character], abs=1e-4)
    probabilities = np.array([p for _, p in distribution.candidates])
    assert distribution.entropy_bits == pytest.approx(-(probabilities * np.log2(probabilities)).sum())
    assert list(probabilities) == sorted(probabilities, reverse=True)
    sharper = predict(engine, "hello", top=1, temperature=0.5)
    assert sharper.candidates[0][1] > distribution.candidates[0][1]
    assert sharper.entropy_bits < distribution.entropy_bits


def test_prompt_of_unknown_characters_is_answered(engine: Engine) -> None:
    answer = complete(engine, "#@#", max_characters=5, seed=1)
    assert len(answer.text()) == 5
    assert answer.usage.prompt_characters == 3


def answered_by(engine: Engine) -> tuple[float, ...]:
    exact, rounded = (engine._schedulers.get((p, "network")) for p in ("float32", "int8"))
    return tuple(s.counters["requests"] if s else 0 for s in (exact, rounded))


def test_int8_is_used_unless_float32_is_requested() -> None:
    engine = Engine(saved_model(int8=True))
    seeded = complete(engine, "a", seed=1)
    assert answered_by(engine) == (0, 1)
    complete(engine, "a")
    assert complete(engine, "a", seed=1, precision="int8").text() == seeded.text()
    complete(engine, "a", precision="float32")
    predict(engine, "a", top=1)
    assert answered_by(engine) == (2, 3)
    engine.close()


def test_lines_are_read_in_float32_unless_they_are_to_be_read_fast(engine: Engine) -> None:
    both = Engine(saved_model(int8=True))
    lines = ["hello", "the quick"]

    def bits(read: Engine, **options: Any) -> list[float]:
        in_turn, _ = read.stream_surprisal(lines, None, **options)
        return [*np.concatenate([line.bits for line in (*read.line_surprisal(lines, **options), *in_turn)])]

    assert bits(both) == bits(engine) == bits(engine, fast=True)
    assert bits(both, fast=True) != bits(both)
    assert (both.has_fast, engine.has_fast) == (True, False)
    both.close()


def test_float32_answers_if_int8_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: LstmNetwork) -> None:
        raise RuntimeError("no such processor")

    monkeypatch.setattr(LstmNetwork, "prepare", fail)
    engine = Engine(saved_model(int8=True))
    complete(engine, "a")
    complete(engine, "a", seed=1)
    assert answered_by(engine) == (2, 0)
    with pytest.raises(Unavailable, match="use precision float32"):
        complete(engine, "a", precision="int8")
    assert not engine.has_fast
    engine.close()


def test_int8_graph_of_another_architecture_is_used_without_a_seed() -> None:
    whole = saved_model()
    files = {"model.onnx": whole.file("model.onnx"), "model.int8.onnx": quantize(whole.file("model.onnx"))}
    card = whole.card.model_copy(update={"files": describe_files(files)})
    engine = Engine(SavedModel(card, files.__getitem__))
    complete(engine, "a", seed=1)
    assert answered_by(engine) == (1, 0)
    complete(engine, "a")
    complete(engine, "a", seed=1, precision="int8")
    assert answered_by(engine) == (1, 2)
    engine.close()


def test_closed_engine_finishes_running_requests_and_refuses_new_ones() -> None:
    engine = Engine(saved_model())
    running = start(engine, "a", max_characters=500)
    running.wait_for(Piece)
    engine.close()
    assert running.answer().finished().characters == 500
    with pytest.raises(Unavailable) as caught:
        complete(engine, "a")
    assert caught.value.code == "model_unloading"


def test_closing_waits_no_longer_than_its_timeout() -> None:
    engine = Engine(saved_model())
    running = start(engine, "a", max_characters=1_000_000)
    running.wait_for(Piece)
    engine.close(timeout_s=0.05)
    failed = running.wait_for(Usage, Failed)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Unavailable)


def test_figures_are_summed_over_precisions_and_experts() -> None:
    saved = saved_model(int8=True)
    engine = Engine(saved)
    assert engine.stats() == {"weight_bytes": engine.weight_bytes, "batch_invariant": True}
    assert engine.steps_by_batch_size() == []
    assert engine.state_size == 2 * 24
    complete(engine, "ab", max_characters=3, seed=1, precision="int8")
    complete(engine, "ab", max_characters=5, seed=1, precision="float32")
    stats = engine.stats()
    assert (stats["requests"], stats["generated_characters"], stats["cache_lookups"]) == (2, 8, 2)
    assert stats["cache_asked_characters"] == 2 and stats["cache_entries"] > 0
    assert stats["steps"] == sum(engine.steps_by_batch_size()) == engine.steps_by_batch_size()[1] > 0
    engine.close()


def test_lines_have_their_newline_and_stop_when_the_check_says_so(engine: Engine) -> None:
    [line] = engine.line_surprisal(["ab"])
    assert line.has_end and len(line.bits) == 2 and line.end_bits > 0

    def check() -> None:
        raise TimeoutError

    for call in (
        lambda: engine.line_surprisal(["ab"], check=check),
        lambda: engine.stream_surprisal(["ab"], None, check=check),
        lambda: engine.text_logprobs("ab", top=1, check=check),
        lambda: engine.top_characters("ab", top=1, check=check),
    ):
        with pytest.raises(TimeoutError):
            call()
