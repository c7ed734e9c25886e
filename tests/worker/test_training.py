"""`fit` as a whole, on small networks and texts."""

import itertools
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.runtime.session import Network
from nextchar.models.text.vocabulary import unknown_bits
from nextchar.store.open_blobs import open_blobs
from nextchar.worker import evaluation
from nextchar.worker.checkpoints import Checkpoint, Checkpoints
from nextchar.worker.evaluation import bits_per_character, graph_of
from nextchar.worker.hooks import Hooks, StopReason
from nextchar.worker.kernel_step import KernelStep
from nextchar.worker.prepared_text import Text
from nextchar.worker.schedule import Diverged, Schedule
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit
from tests.models.architectures.networks import loaded_by_keras

NETWORK = NetworkConfig(units=16, embedding=5)
DEEP = NetworkConfig(layers=2, units=6, embedding=5, dropout=0.1)
TEXT = Text.split("the cat sat on the mat; the dog sat on the log. " * 40, validation_fraction=0.1)


@pytest.fixture(scope="module", autouse=True)
def dense_evaluations() -> Iterator[None]:
    """Short runs here have as many evaluations as long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextchar.worker.pacing._EVALUATION_STEPS", 1)
        yield


def _training(**changes: object) -> TrainingConfig:
    return TrainingConfig(rows=4, window=10, budget=Budget(steps=60)).model_copy(update=changes)


class Recorder:
    """Hooks that record their calls, and stop the run at a step."""

    def __init__(self, *, stop_at: int | None = None, reason: StopReason = "shutdown") -> None:
        self.events: list[tuple[str, dict]] = []
        self.checkpoints: list[Checkpoint] = []
        self.progress: list[dict] = []
        self._polls = 0
        self._stop_at, self._reason = stop_at, reason

    def _stop(self) -> StopReason | None:
        self._polls += 1
        return self._reason if self._stop_at is not None and self._polls > self._stop_at else None

    @property
    def hooks(self) -> Hooks:
        return Hooks(
            progress=self.progress.append,
            event=lambda kind, data: self.events.append((kind, data)),
            checkpoint=self.checkpoints.append,
            stop=self._stop,
        )

    def of_type(self, kind: str) -> list[dict]:
        return [data for k, data in self.events if k == kind]

    @property
    def messages(self) -> list[str]:
        return [data["text"] for data in self.of_type("message")]


def _weights(result: Result) -> list[np.ndarray]:
    return [v.numpy() for v in result.network.variables]


def test_a_run_learns_and_keeps_its_best_weights() -> None:
    recorder = Recorder()
    result = fit(NETWORK, _training(budget=Budget(steps=400)), TEXT, cores=2, hooks=recorder.hooks)
    curve = [m["validation_bits_per_character"] for m in recorder.of_type("metrics")]
    assert curve[0] > 3.5
    assert result.best_bits == min(curve) < 1.5
    assert result.stopped is None
    assert result.steps == 400
    samples = recorder.of_type("sample")
    assert len(samples) == len(curve)
    assert recorder.progress[-1]["step"] == recorder.progress[-1]["steps"] == 400
    _check_that_runtime_and_keras_agree(result)


def _check_that_runtime_and_keras_agree(result: Result) -> None:
    ids = TEXT.validation[:50, None]
    runtime = Network(graph_of(result.network))
    ours, _ = runtime.step(ids, runtime.initial_state(1))
    zero = np.zeros((1, NETWORK.units), "f")
    theirs, *_ = loaded_by_keras(result.network)([ids.T, zero, zero])
    np.testing.assert_allclose(ours[:, 0], np.asarray(theirs)[0], atol=1e-4)


@pytest.fixture(scope="module")
def whole() -> Result:
    """An uninterrupted run."""
    return fit(DEEP, _training(), TEXT, cores=2)


@pytest.mark.parametrize("stop_at", [17, 44])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(stop_at: int, whole: Result) -> None:
    # An epoch has 44 windows; resuming at its end must not reset the states twice.
    first = Recorder(stop_at=stop_at)
    stopped = fit(DEEP, _training(), TEXT, cores=2, hooks=first.hooks)
    assert stopped.stopped == "shutdown"
    assert stopped.steps == stop_at
    resumed = fit(DEEP, _training(), TEXT, cores=2, resume=first.checkpoints[-1])
    assert resumed.best_step == whole.best_step
    for ours, theirs in zip(_weights(resumed), _weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("step", "train_bits_per_character", "validation_bits_per_character"):
        assert [point[name] for point in resumed.curve] == [point[name] for point in whole.curve]


def test_the_mean_loss_after_a_resume_is_of_all_steps_though_a_checkpoint_has_the_last_ones_only() -> None:
    training = _training(budget=Budget(steps=2000))  # evaluations after 136 and 240 steps
    whole = fit(NETWORK, training, TEXT, hooks=Recorder(stop_at=220).hooks)
    stopped = Recorder(stop_at=200)
    fit(NETWORK, training, TEXT, hooks=stopped.hooks)
    checkpoint = stopped.checkpoints[-1]
    assert (len(checkpoint.meta["losses"]), checkpoint.meta["loss_count"]) == (50, 64)
    resumed = fit(NETWORK, training, TEXT, resume=checkpoint, hooks=Recorder(stop_at=20).hooks)
    assert [point["step"] for point in resumed.curve] == [0, 32, 136]
    name = "train_bits_per_character"
    assert [point[name] for point in resumed.curve] == [point[name] for point in whole.curve]


def test_states_are_reset_at_the_start_of_each_epoch_and_never_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    reset, run = KernelStep.reset_states, KernelStep.run

    def noted_reset(self: KernelStep, rows: slice) -> None:
        calls.append(rows)
        reset(self, rows)
        assert not any(array.any() for name, array in self.arrays().items() if name.startswith("state"))

    def noted_run(self: KernelStep, *args: np.ndarray, **options: Any) -> float:
        calls.append(options["step"])
        return run(self, *args, **options)

    monkeypatch.setattr(KernelStep, "reset_states", noted_reset)
    monkeypatch.setattr(KernelStep, "run", noted_run)
    windows = fit(DEEP, _training(budget=Budget(epochs=3)), TEXT, cores=1).rows.windows_per_epoch
    every = slice(0, 4)
    expected: list[object] = []
    for epoch in range(3):
        expected += [every, *range(epoch * windows + 1, (epoch + 1) * windows + 1)]
    assert calls == expected


def test_weights_depend_on_the_seed() -> None:
    first = [fit(NETWORK, _training(budget=Budget(steps=1), seed=seed), TEXT).curve[0] for seed in (1, 1, 2)]
    bits = [point["validation_bits_per_character"] for point in first]
    assert bits[0] == bits[1] != bits[2]


def test_two_replicas_train_as_one_does() -> None:
    one, two = (fit(NETWORK, _training(budget=Budget(steps=20)), TEXT, cores=cores) for cores in (1, 2))
    for ours, theirs in zip(_weights(two), _weights(one), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_budget_in_epochs_reads_the_text_that_many_times() -> None:
    result = fit(NETWORK, _training(budget=Budget(epochs=1.5)), TEXT)
    assert result.epochs == pytest.approx(1.5, abs=0.02)


def test_default_dropout_depends_on_epochs_and_size_is_reported_and_survives_a_resume() -> None:
    shape = NetworkConfig(layers=2, units=60, embedding=5, dropout=None)
    few = Recorder()
    assert fit(shape, _training(budget=Budget(epochs=2)), TEXT, hooks=few.hooks).dropout == 0
    assert not few.of_type("message")

    often, chosen, stopped = _training(budget=Budget(epochs=7)), Recorder(), Recorder(stop_at=200)
    assert fit(shape.model_copy(update={"units": 6}), often, TEXT).dropout == 0
    whole = fit(shape, often, TEXT, hooks=chosen.hooks)
    assert whole.dropout == pytest.approx(0.3)
    assert "read about 7 times: dropout is 30%" in chosen.of_type("message")[0]["text"]
    fit(shape, often, TEXT, hooks=stopped.hooks)
    resumed = fit(shape, often, TEXT, resume=stopped.checkpoints[-1])
    assert resumed.dropout == whole.dropout
    for default, after_resume in zip(*map(_weights, (whole, resumed)), strict=True):
        np.testing.assert_array_equal(default, after_resume)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_dropout_of_a_configuration_is_that_of_the_result(dropout: float) -> None:
    network = NETWORK.model_copy(update={"dropout": dropout})
    assert fit(network, _training(budget=Budget(steps=2)), TEXT).dropout == dropout


def test_a_very_short_budget_still_gives_a_model() -> None:
    result = fit(NETWORK, _training(budget=Budget(seconds=1)), TEXT)
    assert result.stopped is None
    assert result.steps >= 1
    assert np.isfinite(result.best_bits)


class Clock:
    """A clock for `fit`: the first step takes `compiling_s`, and then each takes 0.1 s.

    After `busy_after` steps they take 0.4 s. An evaluation takes `evaluation_s`.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        compiling_s: float = 30.0,
        busy_after: int = 10**6,
        evaluation_s: float = 0.0,
        step_s: float = 0.1,
    ) -> None:
        self.now = 1000.0
        calls, evaluate = itertools.count(), evaluation.bits_per_character

        def after(loss: float) -> float:
            call = next(calls)
            self.now += compiling_s if call == 0 else step_s if call < busy_after else 0.4
            return loss

        def evaluated(*args: Any, **options: Any) -> float:
            self.now += evaluation_s
            return evaluate(*args, **options)

        _with_losses(monkeypatch, lambda _, loss: after(loss))
        monkeypatch.setattr(evaluation, "bits_per_character", evaluated)

    def __call__(self) -> float:
        return self.now


def test_progress_metrics_and_result_are_what_the_run_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recorder = Clock(monkeypatch, compiling_s=0.1), Recorder()
    training = _training(budget=Budget(steps=100), learning_rate=0.01)
    result = fit(NETWORK, training, TEXT, hooks=recorder.hooks, clock=clock)
    metrics, windows = recorder.of_type("metrics"), result.rows.windows_per_epoch
    assert [one["step"] for one in metrics] == [*range(0, 101, 5)]
    for one in metrics:
        assert one["epoch"] == round(one["step"] / windows, 4)
        assert one["elapsed_seconds"] == pytest.approx(0.1 * one["step"])
        assert one["learning_rate"] == pytest.approx(0.01 * Schedule(end=100).rate(one["step"]))
        assert one["characters_per_second"] == (pytest.approx(400) if one["step"] else None)
        assert (one["train_bits_per_character"] is None) == (one["step"] == 0)
    reported = [one["step"] for one in recorder.progress]
    assert reported[0] == 1 and reported[-1] == 100
    assert {later - earlier for earlier, later in itertools.pairwise(reported[:-1])} <= {3, 4}
    for one in recorder.progress:
        assert (one["steps"], one["characters_per_second"]) == (100, 400)
        assert one["seconds_left"] == pytest.approx(0.1 * (100 - one["step"]), abs=0.06)
        assert one["epoch"] == round(one["step"] / windows, 4)
        if one["step"] < 100:  # the last evaluation follows the last step
            last = max((m for m in metrics if m["step"] <= one["step"]), key=lambda m: m["step"])
            measured = last["validation_bits_per_character"] if last["step"] else None  # untrained
            assert one["validation_bits_per_character"] == measured
        assert one["phase"] == ("evaluation" if one["step"] == 100 else None)
        assert one["elapsed_seconds"] == pytest.approx(0.1 * one["step"])
    assert recorder.progress[-1]["sample"] == recorder.of_type("sample")[-1]["text"]
    assert len(recorder.progress[-1]["sample"]) == 240
    assert (result.steps, result.epochs, result.characters) == (100, round(100 / windows, 4), 4000)
    assert result.elapsed_s == pytest.approx(10)
    assert result.best_bits == min(m["validation_bits_per_character"] for m in metrics)


def test_preparation_does_not_count_against_a_budget_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recorder = Clock(monkeypatch), Recorder()
    result = fit(NETWORK, _training(budget=Budget(seconds=2)), TEXT, hooks=recorder.hooks, clock=clock)
    assert 18 <= result.steps <= 20
    assert result.elapsed_s == pytest.approx(0.1 * result.steps)
    assert recorder.of_type("metrics")[0]["elapsed_seconds"] == 0
    (message,) = recorder.of_type("message")
    assert "preparing took 30 s" in message["text"]
    assert "the budget of 2 s counts from the first step" in message["text"]


def test_a_slower_machine_does_not_prolong_a_run_with_a_budget_in_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, recorder = Clock(monkeypatch, compiling_s=3.0, busy_after=10, evaluation_s=1.0), Recorder()
    result = fit(NETWORK, _training(budget=Budget(seconds=30)), TEXT, hooks=recorder.hooks, clock=clock)
    assert not any("preparing took" in message["text"] for message in recorder.of_type("message"))
    assert len(recorder.of_type("metrics")) == 4  # few, for they are slow
    assert 25 < result.elapsed_s < 33


@pytest.mark.parametrize("reason", ["cancel", "pause", "shutdown"])
def test_a_stopped_run_saves_a_checkpoint_and_returns_the_reason(reason: StopReason) -> None:
    recorder = Recorder(stop_at=5, reason=reason)
    result = fit(NETWORK, _training(), TEXT, hooks=recorder.hooks)
    assert result.stopped == reason
    assert recorder.checkpoints[-1].step == 5
    assert [one["step"] for one in recorder.of_type("metrics")] == [0, 3], "it is not evaluated again"
    assert recorder.progress[-1]["step"] == 5


def test_a_small_text_is_trained_in_fewer_rows_with_a_message() -> None:
    recorder = Recorder()
    small = Text.split("abcdefghij" * 20, validation_fraction=0.1)
    result = fit(NETWORK, _training(rows=32, window=64, budget=Budget(steps=3)), small, hooks=recorder.hooks)
    assert result.rows.rows < 32
    assert "the text is small" in recorder.of_type("message")[0]["text"]


def _with_losses(monkeypatch: pytest.MonkeyPatch, replaced: Callable[[int, float], float]) -> None:
    """Let each call of a training step return `replaced(call, loss)` instead of its loss."""
    real, calls = KernelStep.run, itertools.count()

    def run(self: KernelStep, *args: np.ndarray, step: int, learning_rate: float) -> float:
        loss = real(self, *args, step=step, learning_rate=learning_rate)
        return replaced(next(calls), loss)

    monkeypatch.setattr(KernelStep, "run", run)


def test_divergence_rolls_back_and_halves_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_losses(monkeypatch, lambda call, loss: 99.0 if call == 30 else loss)
    recorder = Recorder()
    result = fit(NETWORK, _training(), TEXT, hooks=recorder.hooks)
    (message,) = recorder.of_type("message")
    assert "at step 30 (99); back to step 30 with 0.5 times the learning rate" in message["text"]
    rates = [m["learning_rate"] for m in recorder.of_type("metrics")]
    assert rates[11] < 0.7 * rates[9]
    assert result.steps == 60


def test_a_resumed_run_rolls_back_to_the_same_step_as_an_uninterrupted_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blobs = Checkpoints(open_blobs("memory:///"), "job_1")
    whole = Recorder(stop_at=32)
    _with_losses(monkeypatch, lambda call, loss: 99.0 if call == 32 else loss)
    fit(NETWORK, _training(), TEXT, hooks=whole.hooks)  # stopped just before the loss that is too high
    for checkpoint in whole.checkpoints:
        blobs.save(checkpoint)
    stopped, _ = blobs.load()
    assert stopped and stopped.rollback and (stopped.step, stopped.rollback.step) == (32, 30)
    monkeypatch.undo()
    _with_losses(monkeypatch, lambda call, loss: 99.0 if call == 32 else loss)
    expected = fit(NETWORK, _training(), TEXT)
    monkeypatch.undo()
    _with_losses(monkeypatch, lambda call, loss: 99.0 if call == 3 else loss)  # after those that compile
    resumed = Recorder()
    result = fit(NETWORK, _training(), TEXT, resume=stopped, hooks=resumed.hooks)
    assert "back to step 30 with 0.5 times" in resumed.of_type("message")[0]["text"]
    for ours, theirs in zip(_weights(result), _weights(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_process_that_is_killed_after_a_rollback_continues_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge_once() -> None:
        monkeypatch.undo()
        _with_losses(monkeypatch, lambda call, loss: 99.0 if call == 32 else loss)

    def kill() -> None:
        if recorder.of_type("message"):
            raise KeyboardInterrupt

    blobs, recorder = Checkpoints(open_blobs("memory:///"), "job_1"), Recorder()
    diverge_once()
    hooks = replace(recorder.hooks, checkpoint=blobs.save, checkpoint_every_s=0.0, stop=kill)
    with pytest.raises(KeyboardInterrupt):
        fit(NETWORK, _training(), TEXT, hooks=hooks)
    left, _ = blobs.load()
    assert left and left.step == 30 and "at step 32 (99); back to step 30" in str(recorder.events)
    assert (left.meta["run"]["retries"], left.meta["run"]["rate_scale"]) == (1, 0.5)
    diverge_once()
    expected = fit(NETWORK, _training(), TEXT)
    monkeypatch.undo()
    result = fit(NETWORK, _training(), TEXT, resume=left)
    for ours, theirs in zip(_weights(result), _weights(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loss_that_is_always_nan_fails_as_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_losses(monkeypatch, lambda *_: float("nan"))
    with pytest.raises(Diverged) as caught:
        fit(NETWORK, _training(), TEXT)
    assert caught.value.code == "diverged"
    assert "at step 0 (loss nan)" in caught.value.message


def test_a_loss_that_diverges_again_and_again_is_tried_three_times_at_half_the_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_losses(monkeypatch, lambda call, loss: loss if call < 4 else 99.0)
    recorder = Recorder()
    with pytest.raises(Diverged, match=r"at step 3 .* and again 3 times at lower rates"):
        fit(NETWORK, _training(), TEXT, hooks=recorder.hooks)
    scales = [message["text"].split("with ")[1].split(" times")[0] for message in recorder.of_type("message")]
    assert scales == ["0.5", "0.25", "0.125"]


@pytest.mark.parametrize("text", ["a" * 300, "\n" * 5000, "one line without an end " * 20])
def test_repetitive_texts_can_be_trained(text: str) -> None:
    recorder, training = Recorder(), _training(budget=Budget(steps=3))
    result = fit(NETWORK, training, Text.split(text, validation_fraction=0.1), hooks=recorder.hooks)
    assert np.isfinite(result.best_bits)
    assert not any("no better than" in message["text"] for message in recorder.of_type("message"))


def test_held_out_text_is_the_contiguous_end_and_adds_no_characters_to_the_vocabulary() -> None:
    text = Text.split("a" * 90 + "b" * 10, validation_fraction=0.1)
    assert text.vocabulary.characters == "a"
    assert text.validation[:].tolist() == [0] * 10


def test_overfitting_is_reported_and_the_best_weights_are_kept() -> None:
    # The end is another text: what is learned of the beginning soon makes it worse.
    words = "the cat sat on the mat; the dog sat on the log. " * 12 + "mat log dog cat the sat on; " * 4
    recorder = Recorder()
    training = _training(learning_rate=3e-2, weight_decay=0.0, budget=Budget(steps=600))
    text = Text.split(words, validation_fraction=112 / len(words))
    result = fit(NETWORK, training, text, hooks=recorder.hooks)
    curve = recorder.of_type("metrics")
    best = min(curve, key=lambda point: point["validation_bits_per_character"])
    assert result.has_overfitted
    assert 0 < result.best_step == best["step"] < 600
    network = Network(graph_of(result.network))
    bits = bits_per_character(network, text.selection, before=text.train, rows=32, warm_up=64)
    assert bits == pytest.approx(result.best_bits) != curve[-1]["validation_bits_per_character"]
    messages = [m["text"] for m in recorder.of_type("message") if "no better than" in m["text"]]
    assert f"than at step {result.best_step} for 2 evaluations" in messages[-1]


def test_cancel_keep_best_evaluates_the_last_step() -> None:
    recorder = Recorder(stop_at=47, reason="cancel_keep_best")
    result = fit(NETWORK, _training(), TEXT, hooks=recorder.hooks)
    assert result.stopped == "cancel_keep_best"
    assert recorder.of_type("metrics")[-1]["step"] == 47
    assert result.best_step == 47


def test_characters_beyond_the_coverage_cost_what_unknown_characters_cost_in_a_score() -> None:
    text = Text.split("abcd" * 250 + "xyz" + "q" * 111, validation_fraction=111 / 1114, coverage=0.99)
    result = fit(NETWORK, _training(budget=Budget(steps=3)), text)
    assert text.vocabulary.characters == "abcd"
    assert text.unknown["validation_share"] == 1
    assert result.best_bits == pytest.approx(unknown_bits(5))


def test_resuming_the_final_checkpoint_ends_at_once_with_the_same_result() -> None:
    first, again = Recorder(), Recorder()
    result = fit(NETWORK, _training(), TEXT, hooks=first.hooks)
    assert first.checkpoints[-1].step == 60
    resumed = fit(NETWORK, _training(), TEXT, resume=first.checkpoints[-1], hooks=again.hooks)
    assert (again.events, again.checkpoints) == ([], [])
    assert (resumed.steps, resumed.best_step, resumed.curve) == (60, result.best_step, result.curve)
    for one, other in zip(_weights(result), _weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_run_saves_a_checkpoint_at_its_end() -> None:
    first, again = Recorder(stop_at=1), Recorder()
    fit(NETWORK, _training(budget=Budget(steps=3)), TEXT, hooks=first.hooks)
    fit(NETWORK, _training(budget=Budget(steps=3)), TEXT, resume=first.checkpoints[-1], hooks=again.hooks)
    assert again.checkpoints[-1].step == 3


def _with_weights_not_finite(monkeypatch: pytest.MonkeyPatch, *, after: Container[int]) -> None:
    """Let some calls of a training step, numbered from 0, set weights to NaN; their losses are finite."""
    real, calls = KernelStep.run, itertools.count()

    def run(self: KernelStep, *args: np.ndarray, step: int, learning_rate: float) -> float:
        loss = real(self, *args, step=step, learning_rate=learning_rate)
        if next(calls) in after:
            for weights in self.network.variables:
                weights.assign(np.full_like(weights.numpy(), np.nan))
        return loss

    monkeypatch.setattr(KernelStep, "run", run)


@pytest.mark.parametrize(("step", "back"), [(30, 27), (60, 57)])
def test_an_evaluation_of_weights_that_are_not_finite_rolls_back(
    monkeypatch: pytest.MonkeyPatch, step: int, back: int
) -> None:
    _with_weights_not_finite(monkeypatch, after={step - 1})
    recorder = Recorder()
    result = fit(NETWORK, _training(), TEXT, hooks=recorder.hooks)
    (message,) = recorder.of_type("message")
    assert f"at step {step} (nan); back to step {back} with 0.5 times" in message["text"]
    steps = [one["step"] for one in recorder.of_type("metrics")]
    assert steps == [one["step"] for one in recorder.of_type("sample")] == list(range(0, 61, 3))
    assert result.steps == recorder.checkpoints[-1].step == 60
    assert all(np.isfinite(one["validation_bits_per_character"]) for one in result.curve)
    assert all(np.isfinite(array).all() for array in recorder.checkpoints[-1].arrays.values())


def test_a_run_that_is_cancelled_with_weights_that_are_not_finite_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_weights_not_finite(monkeypatch, after={46})
    recorder = Recorder(stop_at=47, reason="cancel_keep_best")
    result = fit(NETWORK, _training(), TEXT, hooks=recorder.hooks)
    assert (result.stopped, result.steps, result.best_step) == ("cancel_keep_best", 45, 45)
    assert all(np.isfinite(weights).all() for weights in _weights(result))


def test_weights_that_are_never_finite_after_the_last_step_fail_as_diverged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_weights_not_finite(monkeypatch, after=range(100))
    with pytest.raises(Diverged, match=r"at step 1 \(loss nan\) and again 3 times"):
        fit(NETWORK, _training(budget=Budget(steps=1)), TEXT)


def test_weights_to_start_from_that_are_not_finite_fail_as_diverged() -> None:
    weights = KernelLSTM(NETWORK, TEXT.frequencies(), seed=1).weights()
    start = {name: np.full_like(array, np.nan) for name, array in weights.items()}
    with pytest.raises(Diverged, match="that training starts from are not finite"):
        fit(NETWORK, _training(), TEXT, start=start)
