"""`fit`: from the ids of a text to a trained network, by truncated back-propagation through time.

Knows no queue and no Redis: what happens on the way goes out through `Hooks`, and what is asked comes in
through them. Everything that decides the result lives in `Run`, which a checkpoint holds whole.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.architectures import architecture
from models.architectures.spec import Trainable, TrainingStep, Weights
from models.architectures.stateful_lstm import StatefulLSTM
from models.config import NetworkConfig, TrainingConfig
from models.errors import InvalidInput
from models.runtime.session import Network
from worker.checkpoints import Checkpoint
from worker.devices import gpus, network_and_step
from worker.evaluation import bits_per_character, sample
from worker.export import graph_of
from worker.mixing import MixedRows, SecondText
from worker.precision import Choice, choose
from worker.prepared_text import Text
from worker.replicas import replicas_of
from worker.rows import Rows
from worker.schedule import Schedule, dropout
from worker.settings import PrecisionSetting

EVALUATIONS = 20
"""How often a run looks at held-out text, at most; short runs do so less."""

_EVALUATION_CHARACTERS = 40_000  # of the held-out text, on the way; the report at the end reads all of it
_FEWEST_CHARACTERS = 10_000  # of it, where a budget in seconds affords no more
_EVALUATION_SHARE = 0.04  # of a budget in seconds, at most
_BENT_SHARE = 0.05  # of a budget in seconds, after which its number of steps is worked out again
_SAMPLE_CHARACTERS = 240
_FIRST_CHECKPOINT_S = 1.0  # after the start; the next ones after twice as long each, up to the setting
_SAVING_SHARE = 10  # times the duration of saving, between two early checkpoints at least
_DIVERGED = 1.5  # times the first window's loss
_FEW_CHARACTERS = 32  # a window of fewer can be as hard by itself: it is judged with those before it
_JUDGED_TOGETHER = 32
_RETRIES = 3
_MEASURED_S = 5.0  # at most, before a budget in seconds is made steps: nothing can stop a run meanwhile

_LONG_PREPARATION_S = 10.0  # on an idle machine it is about 4 s

_PATIENCE = 2  # evaluations without a new best, after which validation counts as turned

StopReason = Literal["cancel", "cancel_keep_best", "pause", "shutdown"]


class Diverged(InvalidInput):
    """The loss left all bounds, again after going back and learning more slowly."""

    code = "diverged"


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What `fit` tells and asks. Each is called in the training thread and should return at once."""

    progress: Callable[[dict[str, Any]], None] = _nothing
    event: Callable[[str, dict[str, Any]], None] = _nothing  # type, data
    checkpoint: Callable[[Checkpoint], None] = _nothing
    stop: Callable[[], StopReason | None] = _nothing
    checkpoint_every_s: float = 10.0


@dataclass(frozen=True)
class Result:
    """How a run ended. `stopped` is None when it reached its budget; the network holds the best weights."""

    network: Trainable
    stopped: StopReason | None
    steps: int
    epochs: float
    best_step: int
    best_bits: float
    evaluations_since_best: int
    characters: int
    elapsed_s: float
    dropout: float  # the share of the LSTMs' outputs that was dropped
    choice: Choice  # of the precision
    curve: list[dict[str, Any]]
    rows: Rows | MixedRows

    @property
    def has_turned(self) -> bool:
        """Whether validation was worse at two evaluations or more after the best step, and at none better."""
        return self.evaluations_since_best >= _PATIENCE


@dataclass
class Run:
    """What changes while training goes on, but for the arrays; travels in a checkpoint as JSON."""

    schedule: Schedule
    step: int = 0
    epoch: int = 0
    k: int = 0  # the next window of the epoch
    elapsed_s: float = 0.0
    rate_scale: float = 1.0
    dropout: float | None = None  # where the network's config leaves it open
    retries: int = 0
    first_loss: float | None = None
    best_bits: float = float("inf")
    best_step: int = 0
    evaluations: int = 0  # done
    evaluations_since_best: int = 0
    evaluations_planned: int = EVALUATIONS
    evaluation_characters: int = _EVALUATION_CHARACTERS
    evaluation_s: float = 0.0  # how long one takes, where a budget in seconds must leave time for them
    curve: list[dict[str, Any]] = field(default_factory=list)

    def to_meta(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Run":
        """Return what `to_meta` gave."""
        return cls(**{**meta, "schedule": Schedule(**meta["schedule"])})


def fit(
    config: NetworkConfig,
    training: TrainingConfig,
    text: Text,
    *,
    cores: int = 1,
    precision: PrecisionSetting = "mixed",
    measurements: Path | None = None,
    start: Weights | None = None,
    second: SecondText | None = None,
    resume: Checkpoint | None = None,
    hooks: Hooks | None = None,
) -> Result:
    """Train until the budget is used up or `hooks.stop` asks; the best weights so far are kept.

    Args:
        config: the network's shape.
        training: the recipe and the budget.
        text: what to learn from and be judged by.
        cores: of the CPU, that share the rows, at most.
        precision: of matrix products: 16 bits where the machine has them, or float32; `auto` takes what a
            measurement finds to be faster, or what `resume` was trained in.
        measurements: the folder that keeps what was measured on this machine; None keeps nothing.
        start: weights to begin with, by the names that the network's `weights` gives; by default fresh ones.
        second: a text that shares the batches; by default none does.
        resume: the state to go on from; the result is then, bit for bit, that of an uninterrupted run.
        hooks: what to tell, and what to ask; by default nothing.

    Raises:
        Diverged: the loss left all bounds several times.
    """
    choice: Choice | None = None
    if resume and precision == "auto":
        choice = Choice.from_meta(resume.meta.get("precision", {}))
    elif precision != "auto":
        choice = Choice(precision)
    run = _Fit(config, training, text, cores, choice, measurements, start, second, hooks or Hooks())
    return run.run(resume)


def _is_at_its_end(checkpoint: Checkpoint) -> bool:
    run = Run.from_meta(checkpoint.meta["run"])
    return run.step >= run.schedule.end


class _Fit:
    """One call of `fit`: the parts that stay, and `run_` for what changes."""

    def __init__(
        self,
        config: NetworkConfig,
        training: TrainingConfig,
        text: Text,
        cores: int,
        choice: Choice | None,
        measurements: Path | None,
        start: Weights | None,
        second: SecondText | None,
        hooks: Hooks,
    ) -> None:
        self.created = time.monotonic()
        self.first_step_at: float | None = None  # less what earlier attempts took; no time before it counts
        self.training, self.text, self.hooks = training, text, hooks
        size = {"rows": training.rows, "window": training.window}
        self.rows: Rows | MixedRows = (
            second.beside(text, **size, seed=training.seed) if second else Rows.cut(text.train, **size)
        )
        self.kind = kind = architecture(config.architecture)
        if kind.step or not kind.uses_kernels:
            choice = Choice("float32")
        self.choice = choice or self._chosen(config, cores, measurements)
        build = partial(kind.build, config, text.frequencies(), seed=training.seed)
        self.network: Trainable
        self.step: TrainingStep
        if kind.step:
            self.network = build()
            self.step = kind.step(self.network, training, rows=self.rows.rows)
        else:
            self.network, self.step = network_and_step(
                build,
                training,
                rows=self.rows.rows,
                cores=cores,
                precision=self.choice.precision,
            )
        if start is not None:
            assert isinstance(self.network, StatefulLSTM)
            self.network.load(start)
        self.characters_per_step = self.rows.rows * self.rows.window
        self.best: list[NDArray[np.float32]] | None = None
        self.safe: Checkpoint  # where a divergence goes back to
        self.sampled = ""
        self.losses: list[float] = []  # since the last evaluation
        self.speed: float | None = None  # characters a second, smoothed
        self.told = 0.0
        self.saved = time.monotonic()
        # The first checkpoints come quickly, so that a process that is soon killed still gets somewhere.
        self.checkpoint_after_s = min(_FIRST_CHECKPOINT_S, self.hooks.checkpoint_every_s)
        self.bent_at_s = 0.0  # seconds since the first step

    def run(self, resume: Checkpoint | None) -> Result:
        if self.rows.rows < self.training.rows or self.rows.window < self.training.window:
            self._say(
                f"the text is small: training {self.rows.rows} rows of {self.rows.window}-character windows"
                f" instead of {self.training.rows} of {self.training.window}"
            )
        if resume:
            if not _is_at_its_end(resume):
                self._seconds_per_step(at_least_s=0.0)  # compiles
            self.state = self._resumed(resume)
            self.safe = resume.safe or resume
        else:
            self.state = self._fresh()
            self._save(is_safe=True)
        stopped = None
        self._start_clock()
        while self.state.step < self.state.schedule.end:
            if stopped := self.hooks.stop():
                break
            self._train_one_window()
        judge = stopped in (None, "cancel_keep_best") and self.state.curve[-1]["step"] != self.state.step
        if self.best is None or judge:
            self._evaluate()
        if not (resume and resume.step == self.state.step):
            self._save()  # at the end as well, for nothing else holds the network until it is published
        self._tell(force=True)
        return self._result(stopped)

    def _chosen(self, config: NetworkConfig, cores: int, measurements: Path | None) -> Choice:
        """Return the precision of a run that leaves it open, and report a measurement to the job."""
        if gpus():
            return Choice("mixed")
        choice = choose(
            config,
            rows=self.rows.rows // replicas_of(self.rows.rows, at_most=cores),
            window=self.rows.window,
            vocabulary_size=len(self.text.vocabulary),
            kept_in=measurements,
        )
        if choice.bfloat16_speedup is not None:
            self._say(choice.sentence)
        return choice

    def _start_clock(self) -> None:
        """Count time from now on; a message of the job says so where preparing took long."""
        now = time.monotonic()
        self.first_step_at = now - self.state.elapsed_s
        self.bent_at_s = self.state.elapsed_s
        seconds = self.training.budget.seconds
        if seconds is not None and now - self.created > _LONG_PREPARATION_S:
            self._say(
                f"preparing took {now - self.created:.0f} s (compiling, measuring the speed, the first"
                f" evaluation); the budget of {seconds:g} s counts from the first step"
            )

    def _fresh(self) -> Run:
        """Return the state before the first step, with the number of steps fixed."""
        budget = self.training.budget
        state = Run(Schedule(end=budget.steps or 1))
        if budget.epochs is not None:
            state.schedule = Schedule(end=max(1, round(budget.epochs * self.rows.windows_per_epoch)))
        self.state = state
        if budget.seconds is not None:
            seconds_per_step = self._seconds_per_step(at_least_s=min(0.02 * budget.seconds, _MEASURED_S))
            self._plan_evaluations(budget.seconds)
            state.schedule = Schedule(end=self._affordable_end(seconds_per_step))
        else:
            self._evaluate()
        if isinstance(self.network, StatefulLSTM) and self.network.config.dropout is None:
            self._choose_dropout(state)
        return state

    def _choose_dropout(self, state: Run) -> None:
        epochs = state.schedule.end / self.rows.windows_per_epoch
        state.dropout = dropout(epochs)
        self._drop(state)
        if state.dropout:
            self._say(
                f"the text will be read about {epochs:.3g} times: {state.dropout:.0%} of the LSTMs' outputs"
                " are dropped in training, so that it is not learned by heart"
            )

    def _drop(self, state: Run) -> None:
        if state.dropout is not None:
            assert isinstance(self.network, StatefulLSTM)
            self.network.set_dropout(state.dropout)

    def _plan_evaluations(self, seconds: float) -> None:
        """Do the first evaluation, and from its cost say how many there will be, on how much text."""
        state = self.state
        state.evaluation_characters = _FEWEST_CHARACTERS
        began = time.monotonic()
        self._evaluate()
        state.evaluation_s = max(time.monotonic() - began, 1e-3)
        affordable = _EVALUATION_SHARE * seconds / state.evaluation_s  # of this size
        state.evaluations_planned = max(2, min(EVALUATIONS, int(affordable), int(seconds / 3)))
        larger = max(
            1.0, min(affordable / state.evaluations_planned, _EVALUATION_CHARACTERS / _FEWEST_CHARACTERS)
        )
        state.evaluation_characters = int(larger * _FEWEST_CHARACTERS)
        state.evaluation_s *= larger

    def _resumed(self, checkpoint: Checkpoint) -> Run:
        state = Run.from_meta(checkpoint.meta["run"])
        self.step.restore(checkpoint.arrays)
        self.rows.restore(checkpoint.arrays)
        count = len(self.network.variables)
        self.best = [checkpoint.arrays[f"best/{i}"] for i in range(count)]
        self.losses = list(checkpoint.meta["losses"])
        self._drop(state)
        return state

    def _seconds_per_step(self, *, at_least_s: float) -> float:
        """Take some steps for at least so long, undo them, and return the median of their durations."""
        before = self.step.arrays() | self.rows.arrays()
        durations: list[float] = []
        began = time.monotonic()
        while len(durations) < 3 or time.monotonic() - began < at_least_s:
            window = self.rows.at(epoch=0, k=len(durations) % self.rows.windows_per_epoch)
            at = time.monotonic()
            self.step.run(*window, step=0, learning_rate=0.0)
            durations.append(time.monotonic() - at)
            if len(durations) == 1:  # compilation is not what we measure
                began = time.monotonic()
        self.step.restore(before)
        self.rows.restore(before)
        return float(np.median(durations[1:]))

    def _affordable_end(self, seconds_per_step: float) -> int:
        """Return the step at which a budget in seconds will be used up."""
        state, budget_s = self.state, self.training.budget.seconds or 0.0
        left = state.evaluations_planned + 1 - state.evaluations
        spare = budget_s - self._elapsed() - max(0, left) * state.evaluation_s
        return state.step + max(1, int(spare / seconds_per_step))

    def _train_one_window(self) -> None:
        state = self.state
        for rows in self.rows.beginning(epoch=state.epoch, k=state.k):
            self.step.reset_states(rows)
        began = time.monotonic()
        loss = self.step.run(
            *self.rows.at(epoch=state.epoch, k=state.k),
            step=state.step + 1,
            learning_rate=self._rate(),
        )
        if state.first_loss is None:
            state.first_loss = loss
        if self._has_diverged(loss):
            self._rewind(loss)
            return
        self.losses.append(loss / float(np.log(2)))
        state.step += 1
        state.k += 1
        if state.k == self.rows.windows_per_epoch:
            state.epoch, state.k = state.epoch + 1, 0
        took = max(time.monotonic() - began, 1e-6)
        latest = self.characters_per_step / took
        self.speed = latest if self.speed is None else 0.98 * self.speed + 0.02 * latest
        due = int(state.schedule.at(state.step) * state.evaluations_planned)
        if due >= state.evaluations and state.step < state.schedule.end:
            self._evaluate()
            self._bend()
            if state.curve[-1]["validation_bits_per_character"] * float(np.log(2)) <= self._bound():
                self._save(is_safe=True)
        elif time.monotonic() - self.saved > self.checkpoint_after_s:
            self._save()
        share = _BENT_SHARE * (self.training.budget.seconds or float("inf"))
        if self._elapsed() - self.bent_at_s > share and state.step < state.schedule.end:
            self._bend()
        self._tell()

    def _rate(self) -> float:
        """Return the learning rate of the next step."""
        state, warmup_steps = self.state, self.kind.warmup_steps
        gently = min(1.0, (state.step + 1) / warmup_steps) if warmup_steps else 1.0
        return self.training.learning_rate * state.rate_scale * state.schedule.rate(state.step) * gently

    def _has_diverged(self, loss: float) -> bool:
        """Whether the loss, in nats, is no number or far above the start."""
        count = 1 if self.characters_per_step >= _FEW_CHARACTERS else _JUDGED_TOGETHER
        latest = [bits * float(np.log(2)) for bits in self.losses[len(self.losses) - count + 1 :]] + [loss]
        if len(latest) < count:
            return not np.isfinite(loss)
        return not np.mean(latest) <= self._bound()  # also when it is NaN

    def _bound(self) -> float:
        """Return the loss, in nats, that a run that learns never reaches."""
        # A run that starts from a trained network is not to be held to the loss that that had.
        blind = float(np.log(len(self.text.vocabulary)))
        return _DIVERGED * max(self.state.first_loss or 0.0, blind, 1.0)

    def _bend(self) -> None:
        """Fit the rest of a budget in seconds to the speed that the machine really has."""
        if self.training.budget.seconds is None or self.speed is None:
            return
        self.bent_at_s = self._elapsed()
        end = self._affordable_end(self.characters_per_step / self.speed)
        self.state.schedule = self.state.schedule.bent(step=self.state.step, end=end)

    def _rewind(self, loss: float) -> None:
        """Go back to the last evaluation and go on at half the rate. Raises Diverged at last."""
        step, retries = self.state.step, self.state.retries + 1
        if retries > _RETRIES:
            raise Diverged(
                f"training diverged at step {step} (loss {loss:.3g}) and again {_RETRIES} times at lower"
                " rates; try a smaller learning_rate, clip_norm or window"
            )
        scale = self.state.rate_scale / 2
        self.state = replace(self._resumed(self.safe), retries=retries, rate_scale=scale)
        self._say(
            f"the loss left all bounds at step {step} ({loss:.3g}); back to step {self.state.step} with"
            f" {scale:g} times the learning rate"
        )

    def _evaluate(self) -> None:
        state, text = self.state, self.text
        network = Network(graph_of(self.network), threads=2)
        part = text.validation[: state.evaluation_characters]
        bits = bits_per_character(network, part, before=text.train, rows=32, warm_up=64)
        train_bits = float(np.mean(self.losses)) if self.losses else None
        self.losses = []
        state.evaluations_since_best += bits > state.best_bits
        if bits < state.best_bits or self.best is None:
            state.best_bits, state.best_step, state.evaluations_since_best = bits, state.step, 0
            self.best = [v.numpy() for v in self.network.variables]
        state.evaluations += 1
        metrics = {
            "step": state.step,
            "epoch": self._epochs(),
            "train_bits_per_character": train_bits,
            "validation_bits_per_character": bits,
            "learning_rate": self._rate(),
            "characters_per_second": self.speed,
            "elapsed_seconds": round(self._elapsed(), 2),
        }
        state.curve.append(metrics)
        self.hooks.event("metrics", metrics)
        if bits > state.best_bits and state.evaluations_since_best == _PATIENCE:
            self._say(
                f"validation has turned: it was best at step {state.best_step}"
                f" ({state.best_bits:.3f} bits per character), and those weights are kept"
            )
        words = sample(
            network,
            text.vocabulary,
            prompt=text.prompt,
            characters=_SAMPLE_CHARACTERS,
            seed=self.training.seed,
        )
        self.sampled = words
        self.hooks.event("sample", {"step": state.step, "text": words})

    def _tell(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if now - self.told < 0.3 and not force:
            return
        self.told = now
        state, speed = self.state, self.speed
        characters_left = (state.schedule.end - state.step) * self.characters_per_step
        recent = self.losses[-50:]
        last = state.curve[-1]
        train_bits = float(np.mean(recent)) if recent else last["train_bits_per_character"]
        self.hooks.progress(
            {
                "step": state.step,
                "steps": state.schedule.end,
                "epoch": self._epochs(),
                "characters_per_second": round(speed) if speed else None,
                "seconds_left": round(characters_left / speed, 1) if speed else None,
                "train_bits_per_character": train_bits,
                "validation_bits_per_character": last["validation_bits_per_character"],
                "sample": self.sampled,
            }
        )

    def _checkpoint(self) -> Checkpoint:
        assert self.best is not None
        self.state.elapsed_s = self._elapsed()
        arrays = (
            self.step.arrays()
            | self.rows.arrays()
            | {f"best/{i}": array for i, array in enumerate(self.best)}
        )
        meta = {
            "step": self.state.step,
            "run": self.state.to_meta(),
            "losses": self.losses[:],
            "precision": self.choice.to_meta(),
            "characters": self.text.vocabulary.characters,
        }
        return Checkpoint(self.state.step, arrays, meta)

    def _save(self, *, is_safe: bool = False) -> None:
        """Hand out a checkpoint; where it `is_safe`, a divergence will go back to it."""
        checkpoint = self._checkpoint()
        if is_safe:
            self.safe = checkpoint
        checkpoint.meta["safe"] = self.safe.step
        began = time.monotonic()
        self.hooks.checkpoint(checkpoint)
        self.saved = time.monotonic()
        longer_s = max(2 * self.checkpoint_after_s, _SAVING_SHARE * (self.saved - began))
        self.checkpoint_after_s = min(longer_s, self.hooks.checkpoint_every_s)

    def _elapsed(self) -> float:
        """Return the seconds since the first step, over all attempts."""
        if self.first_step_at is None:
            return self.state.elapsed_s
        return time.monotonic() - self.first_step_at

    def _epochs(self) -> float:
        return round(self.state.epoch + self.state.k / self.rows.windows_per_epoch, 4)

    def _say(self, sentence: str) -> None:
        self.hooks.event("message", {"text": sentence})

    def _result(self, stopped: StopReason | None) -> Result:
        assert self.best is not None
        for variable, value in zip(self.network.variables, self.best, strict=True):
            variable.assign(value)
        state = self.state
        return Result(
            network=self.network,
            stopped=stopped,
            steps=state.step,
            epochs=self._epochs(),
            best_step=state.best_step,
            best_bits=state.best_bits,
            evaluations_since_best=state.evaluations_since_best,
            characters=state.step * self.characters_per_step,
            elapsed_s=self._elapsed(),
            dropout=state.dropout if state.dropout is not None else self.network.config.dropout or 0.0,
            choice=self.choice,
            curve=state.curve,
            rows=self.rows,
        )
