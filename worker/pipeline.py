"""A job from its record to a model ready to be published: read, train, export, report."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from models.config import MINIMUM_CHARACTERS
from models.errors import InvalidInput
from models.runtime.graph import quantize
from models.runtime.session import Network
from models.saved_model import Card, describe_files
from store.corpora import Corpora
from store.jobs import Job
from worker.checkpoints import Checkpoint
from worker.evaluation import baselines, bits_per_character
from worker.export import saved_files
from worker.training import Hooks, Result, StopReason, Text, fit

_WARM_UP_CHARACTERS = 2000  # what the held-out text is read after, in the final figure
_INT8_NATS = 0.005  # a character: what int8 weights may cost on the held-out text to be kept


@dataclass(frozen=True)
class Outcome:
    """How it ended: stopped early, or a card and its files."""

    stopped: StopReason | None
    card: Card | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def train_model(
    job: Job,
    *,
    corpora: Corpora,
    cores: int,
    resume: Checkpoint | None,
    hooks_stop: Callable[[], str | None],
    on_event: Callable[[str, dict[str, Any]], None],
    on_progress: Callable[[dict[str, Any]], None],
    on_checkpoint: Callable[[Checkpoint], None],
    checkpoint_every_s: float,
) -> Outcome:
    """Train what `job` asks for.

    Raises:
        InvalidInput: the corpus cannot be trained on, or training diverged.
        NotFound: the corpus is gone.
    """
    began = time.monotonic()
    request = job.request
    whole = corpora.text(request.corpus)
    if len(whole) < MINIMUM_CHARACTERS:
        raise InvalidInput(
            f"the corpus has {len(whole)} characters; training needs {MINIMUM_CHARACTERS}",
            code="corpus_too_small",
        )
    text = Text.split(whole, validation_fraction=request.training.validation_fraction)
    del whole
    result = fit(
        request.network,
        request.training,
        text,
        cores=cores,
        resume=resume,
        hooks=Hooks(
            progress=on_progress,
            event=on_event,
            checkpoint=on_checkpoint,
            stop=cast(Callable[[], StopReason | None], hooks_stop),
            checkpoint_every_s=checkpoint_every_s,
        ),
    )
    if result.stopped:
        return Outcome(result.stopped)
    files = saved_files(result.network)
    report = _report(result, text, files["model.onnx"], cores=cores)
    files, report["int8"] = _with_int8(files, text, report["validation_bits_per_character"], cores=cores)
    report["job_seconds"] = round(time.monotonic() - began, 1)
    size = len(text.vocabulary)
    card = Card(
        id="model_" + job.id.removeprefix("job_"),
        name=request.name,
        created_at=int(time.time()),
        job=job.id,
        corpus=request.corpus,
        network=request.network,
        training=request.training,
        characters=text.vocabulary.characters,
        parameters=request.network.parameters(size),
        report=report,
        files=describe_files(files),
    )
    return Outcome(None, card, files)


def _validation_bits(graph: bytes, text: Text, *, cores: int) -> float:
    network = Network(graph, threads=cores)
    return bits_per_character(network, text.validation, before=text.train, warm_up=_WARM_UP_CHARACTERS)


def _with_int8(
    files: dict[str, bytes], text: Text, float32_bits: float, *, cores: int
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the files, with int8 weights among them if these are good enough, and what was measured."""
    graph = quantize(files["model.onnx"])
    bits = _validation_bits(graph, text, cores=cores)
    lost_nats = (bits - float32_bits) * math.log(2)
    kept = lost_nats <= _INT8_NATS
    measured = {"validation_bits_per_character": bits, "lost_nats": lost_nats, "kept": kept}
    return (files | {"model.int8.onnx": graph} if kept else files), measured


def _report(result: Result, text: Text, graph: bytes, *, cores: int) -> dict[str, Any]:
    bits = _validation_bits(graph, text, cores=cores)
    best = next(point for point in result.curve if point["step"] == result.best_step)
    last = result.curve[-1]
    return {
        "validation_bits_per_character": bits,
        "train_bits_per_character": best["train_bits_per_character"],
        "baselines": baselines(text.train, text.validation, len(text.vocabulary)),
        "characters": {"train": len(text.train), "validation": len(text.validation)},
        "rows": result.rows.rows,
        "window": result.rows.window,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_step": result.best_step,
        # The kept model is the best one; this is how much worse the last one was.
        "bits_lost_after_best": last["validation_bits_per_character"] - best["validation_bits_per_character"],
        "characters_trained": result.characters,
        "training_seconds": round(result.elapsed_s, 1),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "curve": result.curve,
    }
