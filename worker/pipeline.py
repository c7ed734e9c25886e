"""Runs a training job from its record to a model that can be published: read, train, export, report."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, cast

from nextchar.models.architectures import count_parameters
from nextchar.models.base import is_base
from nextchar.models.errors import DomainError
from nextchar.models.machine import peak_memory_bytes
from nextchar.models.report import Evaluation, Experts, Int8Measurement, Numerics, Report
from nextchar.models.runtime.mixture import Learned
from nextchar.models.runtime.model_networks import FLOAT32_FILE, INT8_FILE
from nextchar.models.runtime.session import Check, CheckedNetwork, StepNetwork, no_check, open_network
from nextchar.models.saved_model import Card, describe_files
from nextchar.models.text import line_file
from nextchar.models.text.line_file import Lines
from nextchar.store import tracing
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import Job, JobRequest
from nextchar.store.models import Models
from nextchar.worker.calibration import anomaly_files
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.evaluation import bits_per_character, int8_file, saved_files
from nextchar.worker.experts import (
    EARLY_NETWORK,
    EarlyExperts,
    Mixture,
    Reading,
    begin_reading,
    rows_to_judge,
    wait_for,
)
from nextchar.worker.hooks import Hooks, PreparationCheck, Stopped, StopReason, storage_problem
from nextchar.worker.job_text import (
    check_length,
    check_scratch,
    chunks_beyond_cache,
    mask_values_files,
    masked_pieces,
    max_distinct,
    max_masking_s,
    notes_on_text,
    read_job_text,
    second_characters,
    second_text,
    successors_files,
    text_events,
    unmasked_characters,
)
from nextchar.worker.lines import distinct_lines, line_files, withheld_lines
from nextchar.worker.prepared_text import Text
from nextchar.worker.report import write_report
from nextchar.worker.settings import PrecisionSetting
from nextchar.worker.trainer import Result
from nextchar.worker.training import choose_preset, fit
from nextchar.worker.warm_start import WarmStart, choose_base

log = logging.getLogger(__name__)

P = ParamSpec("P")

_WARM_UP_CHARACTERS = 2000  # read before the held-out text for the final figure
_JUDGED_CHARACTERS = 1_000_000  # from the beginning of the held-out text: a minute for a large network
_MAX_INT8_NATS = 0.005  # per character: the highest cost at which int8 weights are kept


@dataclass(frozen=True)
class Outcome:
    """How training ended; with the card and files of the model, if there is one."""

    stopped: StopReason | None
    card: Card | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def _ends_when_stopped(train: Callable[P, Outcome]) -> Callable[P, Outcome]:
    @wraps(train)
    def run(*args: P.args, **options: P.kwargs) -> Outcome:
        try:
            return train(*args, **options)
        except Stopped as stop:
            return Outcome(stop.reason)

    return run


@_ends_when_stopped
def train_model(
    job: Job,
    *,
    corpora: Corpora,
    models: Models,
    scratch: Path,
    cores: int,
    precision: PrecisionSetting = "mixed",
    measurements: Path | None = None,
    corpus_cache_bytes: int | None = None,
    resume: Checkpoint | None,
    hooks: Hooks,
    events: Sequence[dict[str, Any]] = (),
) -> Outcome:
    """Train the model of a job.

    `measurements` is the folder that keeps measurements of this machine. Ids of a corpus that take more than
    `corpus_cache_bytes` are not written to `scratch` as a whole: see `nextchar.worker.chunked_ids`. `events`
    are the job's events for the report; the caller appends those of `hooks.event`.

    Raises:
        InvalidInput: the corpus cannot be trained on, or training diverged.
        NotFound: the corpus, or the model to start from, was deleted.
        StorageFull: `scratch` has no room for the ids of the corpus (ScratchFull: nothing was read).
    """
    began = time.monotonic()
    request, on_event = job.request, hooks.event
    corpus = corpora.get(request.corpus)
    characters = unmasked_characters(request, corpus)
    check_length(characters)
    check_scratch(request, corpora, corpus, scratch=scratch, cache_bytes=corpus_cache_bytes)
    check = PreparationCheck(
        hooks, has_model=resume is not None, max_s=max_masking_s(request, corpora, corpus)
    )
    pieces = partial(masked_pieces, request, corpora, corpus.id, check=check)
    chunks_of = partial(chunks_beyond_cache, request, corpora, cache_bytes=corpus_cache_bytes, check=check)
    chunks = chunks_of(corpus) if request.kind != "records" else None
    if not resume:
        for sentence in notes_on_text(request, pieces, chunks):
            on_event("message", {"text": sentence})
    # A resumed job has its weights and its vocabulary in the checkpoint.
    start = WarmStart.load(models, request.start_from) if request.start_from and not resume else None
    required = resume.meta.get("characters", "") if resume else start.required if start else ""
    required += second_characters(request, corpora, check=check)
    read_text = partial(
        read_job_text,
        request,
        characters=None if request.masks else characters,
        distinct=max_distinct(request, corpus),
        size_bytes=corpus.bytes,
        scratch=scratch,
        chunks=chunks,
    )
    with tracing.span("prepare text"):
        text = read_text(pieces(), required=required)
    if request.base and not resume:
        base = choose_base(text, threads=cores)
        request = request.with_base(base.reference if base else None)
        if base:
            on_event("message", {"text": base.sentence})
            start, text = base.start, read_text(pieces(), required=base.start.required)
            hooks.request(request)
    options: dict[str, Any] = {
        "cores": cores,
        "precision": precision,
        "measurements": measurements,
        "second": second_text(
            request,
            corpora,
            models,
            text,
            scratch=scratch,
            chunks_of=chunks_of,
            cores=cores,
            on_event=on_event,
            check=check,
        ),
    }
    check.is_over = True
    lines, rare = distinct_lines(request, corpora, corpus, on_event=on_event, check=hooks.check)
    reading = _begin_reading(request, text)
    if reading and hooks.early:
        early = _early_files(text, wait_for(reading, hooks.check), lines)
        hooks.early(_early_card(job, text, early), early)
    if request.candidates:
        request = _with_preset(request, text, options, hooks)
    with tracing.span("train"):
        result = fit(
            request.network,
            request.training,
            text,
            start=start.expand(text.vocabulary) if start else None,
            resume=resume,
            hooks=hooks,
            **options,
        )
    if result.stopped and result.stopped != "cancel_keep_best":
        return Outcome(result.stopped)
    with tracing.span("evaluate model"):
        files = saved_files(result.network)
        float32 = open_network(FLOAT32_FILE, files[FLOAT32_FILE], threads=cores)
        network = CheckedNetwork(float32, hooks.check)
        mixture = (
            Mixture.make(network, text, reading, ready_early=request.ready_early) if reading else Mixture()
        )
        files |= mixture.files
        report = _measured(result, text, network, mixture, hooks)
        int8, report["int8"] = None, None
        if hooks.phase("int8 weights"):
            int8, int8_files, report["int8"] = _int8(
                files[FLOAT32_FILE], text, report["experts"]["lstm"], cores=cores, check=hooks.check
            )
            files |= int8_files
        hooks.phase("")
        files |= anomaly_files(
            network,
            text,
            int8=int8,
            is_log=bool(request.masks),
            purpose=request.purpose or "both",
            events=(log_events := text_events(request, corpora, corpus, check=hooks.check)),
            on_message=lambda sentence: on_event("message", {"text": sentence}),
        )
        files |= mask_values_files(request, corpora, corpus, check=hooks.check) | successors_files(
            request, corpora, corpus, log_events, check=hooks.check
        )
        predictor = CheckedNetwork(mixture.with_network(float32), hooks.check)
        files |= line_files(lines, network, text)
        origin = _origin(job, request, vocabulary_size=len(text.vocabulary))
        report_fields, report_files = write_report(
            report,
            origin,
            text=text,
            network=predictor,
            events=events,
            seed=request.training.seed,
            cores=cores,
            start=_start_card(models, request),
            withheld=withheld_lines(lines, rare, text.vocabulary),
            begin_phase=hooks.phase,
        )
        report |= report_fields
        files |= report_files
        for problem in report["problems"]:
            on_event("message", {"text": problem})
    report["job_seconds"] = round(time.monotonic() - began, 1)
    return Outcome(result.stopped, _card(job, text, files, origin, cast(dict[str, Any], report)), files)


def _begin_reading(request: JobRequest, text: Text) -> Reading | None:
    if not request.mixture:
        return None
    budget_s = 0 if request.ready_early else request.training.budget.seconds or 0
    return begin_reading(text, is_records=request.kind == "records", budget_s=budget_s)


def _early_files(text: Text, learned: Learned, lines: Lines | None) -> dict[str, bytes]:
    with tracing.span("make early model"):
        files = EarlyExperts.make(text, learned).files(text)
        return files | ({line_file.FILE: lines.dump()} if lines else {})


def _with_preset(request: JobRequest, text: Text, options: dict[str, Any], hooks: Hooks) -> JobRequest:
    """Return the request with the network that is chosen for it, as the job's record has it from then on."""
    choice = choose_preset(request.candidates, text, **options)
    hooks.event("message", {"text": choice.sentence})
    request = request.with_choice(choice.candidate)
    hooks.request(request)
    return request


def _early_card(job: Job, text: Text, files: dict[str, bytes]) -> Card:
    without = {"network": EARLY_NETWORK, "preset": None, "chosen_preset": None}
    request = job.request.model_copy(update=without)
    origin = _origin(job, request, vocabulary_size=len(text.vocabulary))
    return _card(job, text, files, origin, {"is_early": True})


def _card(job: Job, text: Text, files: dict[str, bytes], origin: Report, report: dict[str, Any]) -> Card:
    return Card(
        id="model_" + job.id.removeprefix("job_"),
        characters=text.vocabulary.characters,
        report=report,
        files=describe_files(files),
        **cast(dict[str, Any], origin),
    )


def _start_card(models: Models, request: JobRequest) -> Card | None:
    """Return the card of the model that training started from; None: none, or it was deleted since."""
    if request.start_from is None or is_base(request.start_from):
        return None
    try:
        return models.get(request.start_from).card
    except DomainError as error:
        if storage_problem(error):
            raise
        return None


def _origin(job: Job, request: JobRequest, *, vocabulary_size: int) -> Report:
    """Return the fields that the report and the card share."""
    return {
        "name": request.name,
        "created_at": int(time.time()),
        "job": job.id,
        "corpus": request.corpus,
        "preset": request.preset,
        "chosen_preset": request.chosen_preset,
        "network": request.network.model_dump(mode="json"),
        "training": request.training.model_dump(mode="json"),
        "alphabet": request.alphabet,
        "kind": request.kind,
        "started_from": request.start_from,
        "masks": list(request.masks),
        "mix": request.mix.model_dump(mode="json") if request.mix else None,
        "parameters": count_parameters(request.network, vocabulary_size),
    }


def _int8(
    graph: bytes, text: Text, float32_bits: float, *, cores: int, check: Check = no_check
) -> tuple[StepNetwork | None, dict[str, bytes], Int8Measurement | None]:
    """Return the int8 network and its file, if it is accurate enough, and the measurement."""
    try:
        name, data = int8_file(graph)
        network = CheckedNetwork(open_network(name, data, threads=cores), check)
        ids = text.test[:_JUDGED_CHARACTERS]
        bits = bits_per_character(
            network,
            ids,
            before=text.before_test(_WARM_UP_CHARACTERS),
            rows=rows_to_judge(len(ids)),  # as float32_bits
            warm_up=_WARM_UP_CHARACTERS,
        )
    except Exception as error:  # a compiler may fail on some machine: the float32 model is still good
        if storage_problem(error):
            raise
        log.exception("the model gets no int8 weights")
        return None, {}, None
    lost_nats = (bits - float32_bits) * math.log(2)
    kept = lost_nats <= _MAX_INT8_NATS
    measured: Int8Measurement = {"validation_bits_per_character": bits, "lost_nats": lost_nats, "kept": kept}
    # The graphs of other architectures scale their activations by the batch, so lines are not read with them.
    reads_lines = kept and name == INT8_FILE
    return (network if reads_lines else None), ({name: data} if kept else {}), measured


def _measured(result: Result, text: Text, network: StepNetwork, mixture: Mixture, hooks: Hooks) -> Report:
    by_expert = hooks.phase("figures of single experts")
    bits = mixture.bits(network, text, characters=_JUDGED_CHARACTERS, by_expert=by_expert)
    hooks.phase("")
    best = next(point for point in result.curve if point["step"] == result.best_step)
    last = result.curve[-1]
    report: Report = {
        "validation_bits_per_character": bits.get("mixture", bits["lstm"]),
        "experts": cast(Experts, bits),
        "train_bits_per_character": best["train_bits_per_character"],
        "characters": {
            "train": len(text.train),
            "validation": len(text.validation),
            "judged": min(len(text.test), _JUDGED_CHARACTERS),
        },
        "unknown": text.unknown,
        "stopped": result.stopped,
        "ended_early": result.ended_early,
        "rows": result.rows.rows,
        "window": result.rows.window,
        "dropout": result.dropout,
        "precision": result.precision.precision,
        "bfloat16_speedup": result.precision.bfloat16_speedup,
        "numerics": [cast(Numerics, asdict(one)) for one in result.numerics],
        "steps": result.steps,
        "epochs": result.epochs,
        "best_step": result.best_step,
        "validation_turned_at_step": result.best_step if result.has_overfitted else None,
        "validation_turned_at_epoch": best["epoch"] if result.has_overfitted else None,
        "bits_lost_after_best": last["validation_bits_per_character"] - best["validation_bits_per_character"],
        "characters_trained": result.characters,
        "training_seconds": round(result.elapsed_s, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "curve": cast(list[Evaluation], result.curve),
    }
    if mixture.experts:
        report["mixture_weights"] = "learned" if mixture.has_learned_weights else "default"
    return report
