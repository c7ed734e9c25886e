"""The loop of a training run: steps, evaluations, checkpoints, and rollbacks when it diverges."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nextchar.models.architectures import architecture
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.spec import Trainable, TrainingStep
from nextchar.models.architectures.stateful_lstm import StatefulLSTM
from nextchar.models.config import TrainingConfig
from nextchar.store import tracing
from nextchar.worker.checkpoints import Checkpoint, CheckpointSaver
from nextchar.worker.evaluation import PATIENCE, Evaluator
from nextchar.worker.hooks import Hooks, StopReason
from nextchar.worker.mixing import MixedRows
from nextchar.worker.pacing import (
    MIN_EVALUATION_CHARACTERS,
    Pace,
    plan_by_steps,
    plan_evaluations,
    seconds_per_step,
)
from nextchar.worker.precision import Numerics, PrecisionChoice
from nextchar.worker.prepared_text import Text
from nextchar.worker.rows import Rows
from nextchar.worker.schedule import (
    MAX_RETRIES,
    Diverged,
    LossBound,
    RunState,
    Schedule,
    StepLosses,
    cooldown,
    dropout,
)

_LONG_PREPARATION_S = 10.0  # about 4 s is usual on an idle machine
_PROGRESS_EVERY_S = 0.3
_NATS_PER_BIT = float(np.log(2))


@dataclass(frozen=True)
class Result:
    """How a run ended. The network has the best weights.

    `stopped` is None if the run used up its budget or ended early, and `ended_early` says why in that case.
    """

    network: Trainable
    stopped: StopReason | None
    ended_early: str | None
    steps: int
    epochs: float
    best_step: int
    best_bits: float
    evaluations_since_best: int
    characters: int
    elapsed_s: float
    dropout: float  # the fraction of the LSTMs' outputs that was dropped
    precision: PrecisionChoice
    numerics: list[Numerics]  # those of the first step, and one more after each resume that changed them
    curve: list[dict[str, Any]]
    rows: Rows | MixedRows

    @property
    def has_overfitted(self) -> bool:
        """Whether the last two evaluations or more were worse than the best one."""
        return self.evaluations_since_best >= PATIENCE


@dataclass(frozen=True)
class Prepared:
    """What a run needs before its first step."""

    rows: Rows | MixedRows
    precision: PrecisionChoice
    network: Trainable
    step: TrainingStep


class Trainer:
    """Trains a prepared network once. `state` is what changes, apart from arrays."""

    def __init__(
        self,
        run: Prepared,
        training: TrainingConfig,
        text: Text,
        numerics: Numerics,
        pace: Pace,
        hooks: Hooks,
    ) -> None:
        self.training, self.text, self.rows, self.precision = training, text, run.rows, run.precision
        self.network, self.step, self.pace, self.hooks = run.network, run.step, pace, hooks
        self.numerics_here, self.numerics = numerics, list[Numerics]()
        self.warmup_steps = architecture(run.network.config.architecture).warmup_steps
        self.characters_per_step = run.rows.rows * run.rows.window
        self.evaluator = Evaluator(run.network, text, seed=training.seed)
        self.loss_bound = LossBound(len(text.vocabulary), self.characters_per_step)
        self.checkpoints = CheckpointSaver(hooks.checkpoint, hooks.checkpoint_every_s, pace.clock)
        self.state: RunState
        self.losses = StepLosses()  # since the last evaluation
        self.progress_at_s = float("-inf")

    def run(self, resume: Checkpoint | None) -> Result:
        """Train until the budget is used up or a stop is requested. Raises Diverged."""
        if self.rows.rows < self.training.rows or self.rows.window < self.training.window:
            self._message(
                f"the text is small: training {self.rows.rows} rows of {self.rows.window}-character windows"
                f" instead of {self.training.rows} of {self.training.window}"
            )
        if resume:
            if not RunState.from_meta(resume.meta["run"]).is_finished:
                seconds_per_step(self.step, self.rows, self.pace.clock)  # compiles
            self._restore(resume)
            self._report_changed_numerics()
            self.checkpoints.rollback = resume.rollback or resume
        else:
            self._initialize()
            if self.evaluator.best is None:
                raise Diverged("the weights that training starts from are not finite; use another start_from")
            self._save(is_rollback=True)
        self._start_clock()
        stopped = self._train_windows()
        while stopped in (None, "cancel_keep_best") and self.state.curve[-1]["step"] != self.state.step:
            if not self._evaluate_or_roll_back():
                stopped = self._train_windows()
        if not (resume and resume.step == self.state.step):
            self._save()  # also at the end: until the model is published, only this holds the weights
        self._report_progress(force=True)
        return self._result(stopped)

    def _initialize(self) -> None:
        """Set the state before the first step, with the number of steps that the budget allows."""
        budget = self.training.budget
        if budget.epochs is not None:
            steps = max(1, round(budget.epochs * self.rows.windows_per_epoch))
        else:
            steps = budget.steps or 1
        self.state = state = RunState(Schedule(end=steps))
        if budget.seconds is None:
            plan = plan_by_steps(steps)
            self._evaluate()
        else:
            step_s = seconds_per_step(self.step, self.rows, self.pace.clock, budget_s=budget.seconds)
            state.evaluation_characters = MIN_EVALUATION_CHARACTERS
            began = self.pace.clock()
            self._evaluate()
            plan = plan_evaluations(budget.seconds, first_evaluation_s=self.pace.clock() - began)
        state.evaluations_planned, state.first_evaluation = plan.count, plan.first
        state.evaluation_characters, state.evaluation_s = plan.characters, plan.seconds
        if budget.seconds is not None:
            state.schedule = Schedule(end=self.pace.affordable_end(state, step_s))
        if isinstance(self.network, StatefulLSTM | KernelLSTM) and self.network.config.dropout is None:
            self._choose_dropout()

    def _choose_dropout(self) -> None:
        epochs = self.state.schedule.end / self.rows.windows_per_epoch
        weights_per_character = self.network.config.lstm_weights / len(self.text.train)
        self.state.dropout = dropout(epochs, weights_per_character=weights_per_character)
        self._set_dropout()
        if self.state.dropout:
            self._message(
                f"the text will be read about {epochs:.3g} times: dropout is {self.state.dropout:.0%},"
                " to prevent overfitting"
            )

    def _set_dropout(self) -> None:
        if self.state.dropout is not None:
            assert isinstance(self.network, StatefulLSTM | KernelLSTM)
            self.network.set_dropout(self.state.dropout)

    def _report_changed_numerics(self) -> None:
        if self.state.is_finished or not self.numerics or self.numerics[-1] == self.numerics_here:
            return
        before = self.numerics[-1]
        self._message(self.numerics_here.sentence_after(before, has_dropout=self._dropout > 0))

    @property
    def _dropout(self) -> float:
        chosen = self.state.dropout
        return chosen if chosen is not None else self.network.config.dropout or 0.0

    def _start_clock(self) -> None:
        preparation_s = self.pace.start(elapsed_before_s=self.state.elapsed_s)
        budget_s = self.training.budget.seconds
        if budget_s is not None and preparation_s > _LONG_PREPARATION_S:
            self._message(
                f"preparing took {preparation_s:.0f} s (compiling, measuring the speed, the first"
                f" evaluation); the budget of {budget_s:g} s counts from the first step"
            )

    def _train_windows(self) -> StopReason | None:
        """Train until the budget is used up, or a stop is requested, and return which."""
        while not self.state.is_finished:
            if stopped := self.hooks.stop():
                return stopped
            self._train_one_window()
        return None

    def _train_one_window(self) -> None:
        state = self.state
        if self.numerics[-1:] != [self.numerics_here]:
            self.numerics.append(replace(self.numerics_here, from_step=state.step))
        place = {"epoch": state.epoch, "index": state.window_index}
        for rows in self.rows.starting_rows(**place):
            self.step.reset_states(rows)
        began = self.pace.clock()
        loss = self.step.run(
            *self.rows.window_at(**place), step=state.step + 1, learning_rate=self._learning_rate()
        )
        if state.first_loss is None:
            state.first_loss = loss
        if self.loss_bound.is_exceeded(loss, self.losses.recent_bits, state):
            self._roll_back(loss)
            return
        self.losses.add(loss / _NATS_PER_BIT)
        state.advance(windows_per_epoch=self.rows.windows_per_epoch)
        self.pace.add_step(self.pace.clock() - began)
        if state.is_evaluation_due and not state.is_finished:
            self._evaluate_between_steps()
        elif self.checkpoints.is_due():
            self._save()
        if self.pace.should_retime() and not self.state.is_finished:
            self.state.schedule = self.pace.retimed(self.state)
        self._report_progress()

    def _evaluate_between_steps(self) -> None:
        """Evaluate the network, fit the schedule, and save the checkpoint to roll back to."""
        if not self._evaluate_or_roll_back():
            return
        state = self.state
        if not (self.training.early_stopping and self._stop_early()):
            state.schedule = self.pace.retimed(state)
        bits = state.curve[-1]["validation_bits_per_character"]
        if bits * _NATS_PER_BIT <= self.loss_bound.nats(state):
            self._save(is_rollback=True)

    def _stop_early(self) -> bool:
        """Begin the cooldown from the best weights if held-out loss has turned; return whether it began."""
        if (end := cooldown(self.state)) is None:
            return False
        self.evaluator.load_best()
        self.state.schedule, self.state.ended_early = end.schedule, end.sentence
        self._message(end.sentence)
        return True

    def _learning_rate(self) -> float:
        state, warmup_steps = self.state, self.warmup_steps
        warmup = min(1.0, (state.step + 1) / warmup_steps) if warmup_steps else 1.0
        return self.training.learning_rate * state.rate_scale * state.schedule.rate(state.step) * warmup

    def _roll_back(self, loss: float) -> None:
        """Go back to the last evaluation, halve the learning rate, and save that. Raises Diverged."""
        step, retries, scale = self.state.step, self.state.retries + 1, self.state.rate_scale / 2
        if retries > MAX_RETRIES:
            raise Diverged(
                f"training diverged at step {step} (loss {loss:.3g}) and again {MAX_RETRIES} times at lower"
                " rates; try a smaller learning_rate, clip_norm or window"
            )
        self._restore(self.checkpoints.rollback)
        self.state = replace(self.state, retries=retries, rate_scale=scale)
        self._message(
            f"the loss diverged at step {step} ({loss:.3g}); back to step {self.state.step} with"
            f" {scale:g} times the learning rate"
        )
        self._save()  # a run that is resumed from a later checkpoint would diverge again

    def _evaluate_or_roll_back(self) -> bool:
        """Evaluate the network; roll back if the result is not finite, and return whether it is."""
        bits = self._evaluate()
        if np.isfinite(bits):
            return True
        self._roll_back(bits)
        return False

    def _evaluate(self) -> float:
        """Return the held-out bits per character, and report them and a sample if they are finite."""
        state = self.state
        with tracing.span("evaluate", attributes={"nextchar.step": state.step}):
            bits = self.evaluator.evaluate(state)
        if not np.isfinite(bits):
            return bits
        metrics = {
            "step": state.step,
            "epoch": self._epochs(),
            "train_bits_per_character": self.losses.mean_bits,
            "validation_bits_per_character": bits,
            "learning_rate": self._learning_rate(),
            "characters_per_second": self._characters_per_second(),
            "elapsed_seconds": round(self.pace.elapsed_s, 2),
        }
        self.losses = StepLosses()
        state.curve.append(metrics)
        self.hooks.event("metrics", metrics)
        if bits > state.best_bits and state.evaluations_since_best == PATIENCE:
            self._message(
                f"no better than at step {state.best_step} for {PATIENCE} evaluations: the weights there"
                f" ({state.best_bits:.3f} bits per character) are kept, unless later ones are better"
            )
        self.hooks.event("sample", {"step": state.step, "text": self.evaluator.write_sample()})
        return bits

    def _report_progress(self, *, force: bool = False) -> None:
        now = self.pace.clock()
        if now - self.progress_at_s < _PROGRESS_EVERY_S and not force:
            return
        self.progress_at_s = now
        state, speed = self.state, self._characters_per_second()
        characters_left = (state.schedule.end - state.step) * self.characters_per_step
        recent_bits = self.losses.recent_bits
        last = state.curve[-1]
        self.hooks.progress(
            {
                "step": state.step,
                "steps": state.schedule.end,
                "epoch": self._epochs(),
                "characters_per_second": round(speed) if speed else None,
                "elapsed_seconds": round(self.pace.elapsed_s, 1),
                "seconds_left": round(characters_left / speed, 1) if speed else None,
                "phase": "evaluation" if state.is_finished else None,
                "train_bits_per_character": (
                    float(np.mean(recent_bits)) if recent_bits else last["train_bits_per_character"]
                ),
                "validation_bits_per_character": (
                    last["validation_bits_per_character"] if last["step"] else None  # of an untrained network
                ),
                "sample": self.evaluator.sample,
                "ended_early": state.ended_early,
            }
        )

    def _save(self, *, is_rollback: bool = False) -> None:
        """Save a checkpoint; with `is_rollback` it is the one to restore if the loss diverges."""
        assert self.evaluator.best is not None
        self.state.elapsed_s = self.pace.elapsed_s
        best = {f"best/{i}": array for i, array in enumerate(self.evaluator.best)}
        meta = {
            "step": self.state.step,
            "run": self.state.to_meta(),
            **self.losses.to_meta(),
            "precision": asdict(self.precision),
            "numerics": [asdict(one) for one in self.numerics],
            "characters": self.text.vocabulary.characters,
        }
        checkpoint = Checkpoint(self.state.step, self.step.arrays() | self.rows.arrays() | best, meta)
        self.checkpoints.save(checkpoint, is_rollback=is_rollback)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.state = RunState.from_meta(checkpoint.meta["run"])
        self.step.restore(checkpoint.arrays)
        self.rows.restore(checkpoint.arrays)
        self.evaluator.best = [checkpoint.arrays[f"best/{i}"] for i in range(len(self.network.variables))]
        self.losses = StepLosses.from_meta(checkpoint.meta)
        self.numerics = [Numerics(**one) for one in checkpoint.meta.get("numerics", ())]
        self._set_dropout()

    def _characters_per_second(self) -> float | None:
        steps_per_second = self.pace.steps_per_second
        return None if steps_per_second is None else steps_per_second * self.characters_per_step

    def _epochs(self) -> float:
        return round(self.state.epoch + self.state.window_index / self.rows.windows_per_epoch, 4)

    def _message(self, sentence: str) -> None:
        self.hooks.event("message", {"text": sentence})

    def _result(self, stopped: StopReason | None) -> Result:
        self.evaluator.load_best()
        state = self.state
        return Result(
            network=self.network,
            stopped=stopped,
            ended_early=state.ended_early,
            steps=state.step,
            epochs=self._epochs(),
            best_step=state.best_step,
            best_bits=state.best_bits,
            evaluations_since_best=state.evaluations_since_best,
            characters=state.step * self.characters_per_step,
            elapsed_s=self.pace.elapsed_s,
            dropout=self._dropout,
            precision=self.precision,
            numerics=self.numerics,
            curve=state.curve,
            rows=self.rows,
        )
