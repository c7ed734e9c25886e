"""`fit`: train a network on the ids of a text, by truncated back-propagation through time.

Measures the presets that `auto` chooses from on this machine, and chooses one.
"""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from nextchar.models.architectures import architecture
from nextchar.models.architectures.kernel_lstm import KernelLSTM
from nextchar.models.architectures.spec import Weights
from nextchar.models.architectures.stateful_lstm import StatefulLSTM
from nextchar.models.auto_preset import Candidate, Choice, choose
from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from nextchar.models.machine import is_out_of_memory
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.devices import gpu_problem, gpus, network_and_step
from nextchar.worker.hooks import Hooks
from nextchar.worker.mixing import MixedRows, SecondText
from nextchar.worker.pacing import Clock, Pace, seconds_per_step
from nextchar.worker.precision import PrecisionChoice, choose_precision, numerics_here
from nextchar.worker.prepared_text import Text
from nextchar.worker.rows import Rows, replicas_of
from nextchar.worker.settings import PrecisionSetting
from nextchar.worker.trainer import Prepared, Result, Trainer


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
    clock: Clock = time.monotonic,
) -> Result:
    """Train until the budget is used up or `hooks.stop` returns a reason; keep the best weights.

    Args:
        config: the network's shape.
        training: the recipe and the budget.
        text: the training text and the held-out text.
        cores: the most CPU cores that the rows are split over.
        precision: of matrix products: 16 bits where the machine supports them, or float32; `auto` measures
            which is faster, or takes that of `resume`.
        measurements: the folder that keeps measurements of this machine; None keeps nothing.
        start: initial weights, by the names of the network's `weights`; by default random ones.
        second: a text that shares the batches.
        resume: the checkpoint to continue from; the result is bit for bit that of an uninterrupted run, if
            the numerics are the same. Else a message says what has changed.
        hooks: callbacks; by default none.
        clock: seconds from any origin.

    Raises:
        InvalidInput: CUDA_VISIBLE_DEVICES names GPUs, and TensorFlow sees none (code `gpu_unavailable`).
        Diverged: the loss diverged several times.
    """
    pace = Pace(training.budget.seconds, clock)
    hooks = hooks or Hooks()
    if not architecture(config.architecture).step and (problem := gpu_problem()):
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            raise InvalidInput(problem, code="gpu_unavailable")
        hooks.event("message", {"text": f"training uses the CPU: {problem}"})
    run = prepare(
        config,
        training,
        text,
        cores=cores,
        precision=precision,
        measurements=measurements,
        second=second,
        resume=resume,
    )
    if run.precision.bfloat16_speedup is not None and not resume:
        hooks.event("message", {"text": run.precision.sentence})
    if start is not None:
        assert isinstance(run.network, StatefulLSTM | KernelLSTM)
        run.network.load(start)
    numerics = numerics_here(config, run.precision.precision, rows=run.rows.rows, cores=cores)
    return Trainer(run, training, text, numerics, pace, hooks).run(resume)


def prepare(
    config: NetworkConfig,
    training: TrainingConfig,
    text: Text,
    *,
    cores: int,
    precision: PrecisionSetting,
    measurements: Path | None,
    second: SecondText | None,
    resume: Checkpoint | None = None,
) -> Prepared:
    """Return a network with random weights, ready to train; the arguments are those of `fit`."""
    size = {"rows": training.rows, "window": training.window}
    rows = second.mix_into(text, **size, seed=training.seed) if second else Rows.cut(text.train, **size)
    choice = _precision_choice(config, precision, text, rows, cores, measurements, resume)
    network, step = network_and_step(
        config,
        training,
        text.frequencies(),
        seed=training.seed,
        rows=rows.rows,
        cores=cores,
        precision=choice.precision,
    )
    return Prepared(rows, choice, network, step)


def _precision_choice(
    config: NetworkConfig,
    setting: PrecisionSetting,
    text: Text,
    rows: Rows | MixedRows,
    cores: int,
    measurements: Path | None,
    resume: Checkpoint | None,
) -> PrecisionChoice:
    """Return the precision to train in, which may be measured."""
    kind = architecture(config.architecture)
    if kind.step or not kind.build_for_kernels:
        return PrecisionChoice("float32")
    if setting != "auto":
        return PrecisionChoice(setting)
    if resume:
        return PrecisionChoice(**resume.meta.get("precision", {"precision": "mixed"}))
    if gpus():
        return PrecisionChoice("mixed")
    return choose_precision(
        config,
        rows=rows.rows // replicas_of(rows.rows, max_replicas=cores),
        window=rows.window,
        vocabulary_size=len(text.vocabulary),
        folder=measurements,
    )


_BUDGET_S = 15.0  # measure as for this budget: 0.3 seconds, and at least three steps


def choose_preset(
    candidates: Sequence[Candidate],
    text: Text,
    *,
    second: SecondText | None = None,
    cores: int = 1,
    precision: PrecisionSetting = "mixed",
    measurements: Path | None = None,
    clock: Clock = time.monotonic,
) -> Choice:
    """Return the choice among candidates, whose budgets are in seconds, by their measured seconds per step.

    The other arguments are those of `nextchar.worker.training.fit`. A large network is measured only if the
    smaller ones are fast enough, and not chosen if it does not fit in memory.
    """

    def measure(candidate: Candidate) -> float:
        try:
            prepared = prepare(
                candidate.network,
                candidate.training,
                text,
                second=second,
                cores=cores,
                precision=precision,
                measurements=measurements,
            )
            return seconds_per_step(prepared.step, prepared.rows, clock, budget_s=_BUDGET_S)
        except Exception as error:
            if candidate == candidates[0] or not is_out_of_memory(error):
                raise
            return math.inf  # too slow: the smaller one is chosen

    budget_s = candidates[0].training.budget.seconds
    assert budget_s is not None
    return choose(candidates, budget_s, len(text.train), measure)
