"""Training jobs: requests and descriptions.

Jobs as the API shows them, with what Redis knows of the moment; and their events, from both.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from nextchar.app.http.event_streams import Feeds, NewEvents, Numbered
from nextchar.app.http.limits import FEEDS
from nextchar.app.http.schemas import RequestBody, Shape, with_examples
from nextchar.app.http.services import Services
from nextchar.models.config import (
    ArchitectureName,
    Budget,
    Mix,
    NetworkConfig,
    Preset,
    PresetOption,
    SuggestionConfig,
    TrainingConfig,
)
from nextchar.models.text.kind_detection import Purpose, TextKind
from nextchar.models.text.masks import MAX_MASKS, MAX_PATTERN_CHARACTERS, NAMED
from nextchar.models.text.vocabulary import Alphabet
from nextchar.models.validation_errors import NAME_PATTERN
from nextchar.store.early_models import early_reference
from nextchar.store.expiring_cache import ExpiringCache
from nextchar.store.jobs import Job, JobError, JobRequest, Jobs, JobStatus
from nextchar.store.live import EventLog, Live, StopRequest
from nextchar.store.queue import TrainingQueue

EXAMPLE_CREATE: dict[str, Any] = {
    "corpus": "nietzsche", "name": "nietzsche", "preset": "auto", "network": {"dropout": 0.1},
    "budget": {"seconds": 120}, "validation_fraction": 0.1, "seed": 7,
}  # fmt: skip

EXAMPLE: dict[str, Any] = {
    "id": "job_0197c2a1b3c4d5e6f7a8b", "object": "job", "status": "running", "created_at": 1795563600,
    "updated_at": 1795563602, "name": "nietzsche", "corpus": "corpus_98b1f0a4c2d5e6f708192a3b",
    "preset": "auto", "chosen_preset": "small", "candidates": [], "network": NetworkConfig().model_dump(),
    "training": TrainingConfig(budget=Budget(seconds=120), seed=7).model_dump(), "attempt": 1,
    "queue_position": None, "asked": None, "model": None,
    "progress": {
        "step": 812, "steps": 2400, "epoch": 1.7, "characters_per_second": 61200, "seconds_left": 66,
        "train_bits_per_character": 2.11, "validation_bits_per_character": 2.19,
        "sample": "the soul of the spirit of the",
    },
    "error": None, "pause_reason": None,
}  # fmt: skip

EXAMPLE_EVENT: dict[str, Any] = {
    "id": 3, "at": 1795563611.204, "type": "metrics",
    "data": {"step": 100, "train_bits_per_character": 3.02, "validation_bits_per_character": 3.11},
}  # fmt: skip


class BudgetBody(Budget):
    """When training ends: exactly one of the three."""

    model_config = with_examples({"seconds": 120}, strict=True)


class NetworkOverride(RequestBody):
    """Changes to the preset's network; omitted fields keep the preset's values."""

    layers: int | None = Field(None, ge=1, le=8, description="Stacked LSTM layers.")
    units: int | None = Field(None, ge=4, le=4096, description="Hidden units of each layer.")
    embedding: int | None = Field(None, ge=2, le=1024, description="Size of a character's embedding.")
    dropout: float | None = Field(None, ge=0, lt=0.95)
    """Fraction of each LSTM output dropped during training; the presets' default increases with the number of
    epochs and with the size of the network for the length of the text."""
    coupled_gates: bool | None = None
    """Whether the LSTMs' input gate is one minus the forget gate, which trains faster; the presets' is."""
    context: int | None = Field(None, ge=2, le=64)
    """Context length of a fixed-window model, in characters."""


class TrainingOverride(RequestBody):
    """Changes to the preset's recipe; omitted fields keep the preset's values."""

    rows: int | None = Field(None, ge=1, le=4096)
    """Parallel streams that the corpus is divided into (the batch size)."""
    window: int | None = Field(None, ge=2, le=4096)
    """Length of truncated back-propagation through time, in characters."""
    learning_rate: float | None = Field(None, gt=0, le=1, description="Peak rate of the one-cycle schedule.")
    weight_decay: float | None = Field(None, ge=0, le=1, description="Decoupled weight decay of AdamW.")
    clip_norm: float | None = Field(None, gt=0, le=1000, description="Maximum global norm of the gradient.")
    preconditioning: bool | None = None
    """Whether the gradients of recurrent weights are preconditioned before AdamW: steps are longer and learn
    more. Of the presets `medium` has it."""
    early_stopping: bool | None = None
    """Whether training ends before its budget is used up if held-out loss has not been better at four
    evaluations in a row and their median rises; in the presets it does."""


class JobCreate(RequestBody):
    """Train a network on a corpus and publish it as the next version of `name`."""

    model_config = with_examples(EXAMPLE_CREATE)

    corpus: str = Field(max_length=128, description="The id or name of an uploaded corpus.")
    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    """The model's name; each finished job adds a version to it."""
    architecture: ArchitectureName = "stateful_lstm"
    """The network's architecture; `GET /v1/architectures` lists them."""
    preset: PresetOption = "auto"
    """The network and recipe; only the default architecture has presets. `auto`: the worker measures the
    seconds per training step of the presets and takes the largest that can make enough steps in a budget in
    seconds; with one in steps or epochs it is `small`. If `network` has `layers` or `units`, it chooses only
    among the presets nearest to them."""
    network: NetworkOverride = Field(NetworkOverride(), description="Changes to the preset's network.")
    training: TrainingOverride = Field(TrainingOverride(), description="Changes to the preset's recipe.")
    budget: BudgetBody = Field(BudgetBody(seconds=60))
    """When training ends: exactly one of epochs, steps, seconds."""
    validation_fraction: float = Field(0.1, ge=0.005, le=0.5)
    """Fraction of the text that is held out for validation: its end, or of `records` lines drawn at
    random."""
    seed: int = Field(1, ge=0, lt=2**31)
    """The same seed gives the same model, if the report's `numerics` are the same and the budget is in steps
    or epochs."""
    alphabet: Alphabet | None = None
    """The unit of text: a code point after NFC, or one byte of the UTF-8. Default: that of the model it
    starts from; else `bytes` for a corpus uploaded as bytes, and `characters` for text."""
    kind: TextKind | None = None
    """What the text is; default: the corpus's `kind`. The lines of `records` are shuffled once with the job's
    seed, held-out lines are drawn at random, and the model begins prompts at the start of a line. Every other
    kind keeps its order."""
    purpose: Purpose | None = None
    """What the model is for; default: `anomalies` for a log, `both` for records, `complete` for code and
    other text. Every model completes and scores; the purpose decides whether values that change from line to
    line are masked if `masks` is left out: for `complete` they are not."""
    coverage: float = Field(1.0, ge=0.5, le=1)
    """Fraction of the training text that the vocabulary must cover. The rarest characters beyond it become
    unknown: for alphabets of thousands of characters, use 0.9995."""
    start_from: str | None = Field(None, max_length=128)
    """A model, `name` or `name@version`, whose weights and vocabulary training starts from. The network is
    then that model's; the preset only determines the recipe, `auto` that of the preset nearest in size. Or a
    base model of the package, such as `base/english`."""
    base: bool = True
    """Whether preset `auto` starts from a base model of the package if the text is short and one predicts it
    well; `start_from` of the job then names it. Not for a job with `start_from`, `mix`, fields of `network`
    or the alphabet `bytes`."""
    masks: (
        Literal["auto"]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]],
            Field(max_length=MAX_MASKS),
        ]
        | None
    ) = Field(
        None,
        description="Parts of the text whose value carries no information, each replaced by one character:"
        f" {', '.join(NAMED)}, or RE2 expressions. Lines that the model scores are masked in the same way."
        " `auto`: the corpus's `suggested_masks`, which are found from the text itself. Default: those of the"
        " model it starts from or of the teacher; else `auto` for a log, unless the purpose is `complete`."
        " `[]` disables masking.",
    )
    mixture: bool = True
    """Predict with the network together with contexts of the training text, whose end the model then
    contains. `false`: with the network alone."""
    ready_early: bool = True
    """Before the network is trained, make an early model of the mixture's contexts alone. It completes and
    suggests until the job ends; the job's `early` has its name. Training begins some seconds per million
    characters later. Without a mixture there is none."""
    mix: Mix | None = None
    """A second text in a fraction of each batch's rows, with its own characters or a teacher's predictions as
    targets."""
    suggestions: SuggestionConfig | None = None
    """Which lines of `records` are suggested; default: all."""


class JobCancel(RequestBody):
    """How to end a job."""

    model_config = with_examples({"keep_best": True})

    keep_best: bool = False
    """Publish the best model so far before the job ends as `cancelled`. A job that has not started has
    none."""


class ProgressBody(Shape):
    """Progress of training. A worker may report further fields; values that are not known yet are null."""

    model_config = ConfigDict(extra="allow")

    step: int | None = Field(None, description="Optimizer steps done.")
    steps: int | None = Field(None, description="Total optimizer steps; null until the speed is known.")
    epoch: float | None = Field(None, description="Passes over the training text so far.")
    characters_per_second: float | None = None
    elapsed_seconds: float | None = Field(None, description="Since the first step, over all attempts.")
    seconds_left: float | None = Field(None, description="Of training; the evaluation follows.")
    phase: str | None = None
    """What the worker does after the last step: `evaluation`, or one of its parts, such as `memorization of
    the report`. Null while the network is trained."""
    train_bits_per_character: float | None = None
    validation_bits_per_character: float | None = None
    """At the latest evaluation after the first step."""
    sample: str | None = Field(None, description="Text generated at the latest evaluation.")
    attempt: int | None = Field(None, description="The attempt that reported it.")
    checkpoint_at: float | None = None
    """When the attempt last saved a checkpoint. Unix seconds, UTC."""
    peak_memory_bytes: int | None = None
    """Peak memory of the process that trains, in bytes."""
    ended_early: str | None = None
    """Why training ends before its budget is used up, as a sentence; see `training.early_stopping`."""
    waiting_for_storage: str | None = None
    """The storage problem that keeps the worker from recording the end of its attempt. The worker retries
    until that succeeds."""


class EarlyModelBody(Shape):
    """The model with which a job completes while its network is trained."""

    model: str
    """`name@job`: what completions and suggestions call it by. Once the job has succeeded, the same name
    means the version that it published. The bare name means it while it has no version."""
    since: float = Field(description="When it was ready. Unix seconds, UTC.")


class JobBody(Shape):
    """A training job in its present state."""

    model_config = with_examples(EXAMPLE)

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    created_at: int = Field(description="Unix seconds, UTC.")
    updated_at: int = Field(description="When the status last changed. Unix seconds, UTC.")
    name: str = Field(description="The name of the model that it trains.")
    corpus: str = Field(description="The id of the corpus.")
    preset: PresetOption | None = None
    """The preset that was requested; null: the architecture has none, or not known."""
    chosen_preset: Preset | None = None
    """What preset `auto` has chosen; the job's messages explain it."""
    candidates: list[Preset] = Field([])
    """What preset `auto` chooses from when training starts; empty once it has. Until then `network` and
    `training` are those of the first."""
    network: NetworkConfig
    training: TrainingConfig
    alphabet: Alphabet = "characters"
    kind: TextKind | None = None
    """What the text is, which decides how it is split; null: split like `text`."""
    purpose: Purpose | None = None
    """What its model is for; null: of a job from before there were purposes."""
    coverage: float = 1.0
    start_from: str | None = None
    """The model it starts from, `name@version`; of a base model `base/name@version`."""
    masks: tuple[str, ...] = Field((), description="The masks of the text.")
    masked_by_default: str | None = None
    """If the masks are those suggested for the text: what they replace, and in how many lines, with an
    example."""
    mixture: bool = True
    """Whether the model predicts with a mixture; false: with the network alone."""
    ready_early: bool = False
    """Whether an early model completes while the network is trained."""
    early: EarlyModelBody | None = Field(None, description="The early model, until the job ends.")
    mix: Mix | None = Field(None, description="The second text that shares each batch, and its teacher.")
    suggestions: SuggestionConfig | None = Field(None, description="Which lines of records are suggested.")
    attempt: int = Field(description="How many times a worker has started it.")
    queue_position: int | None
    """1 for the next job; null if it is not waiting or Redis is down."""
    asked: StopRequest | None
    """A request to the job's worker that it has not followed yet."""
    model: str | None
    """`name@version`, once the job has succeeded, or was cancelled with `keep_best`."""
    progress: ProgressBody | None
    error: JobError | None
    """Set if the status is `failed`. `resume` retries from the last checkpoint, while it is kept."""
    pause_reason: JobError | None = None
    """Why the service paused the job. With a code that starts with `storage_` it continues automatically when
    the storage works again; `resume` retries at once, `pause` keeps it paused."""


class EventBody(BaseModel):
    """An event of a job."""

    model_config = with_examples(EXAMPLE_EVENT)

    id: int = Field(description="Increases with every event of the job; for `Last-Event-ID` and `after`.")
    at: float = Field(description="When it happened. Unix seconds, UTC.")
    type: str = Field(description="`metrics`, `sample` or `message`; more may be added.")
    data: dict[str, Any] = Field(description="The content; depends on the type.")


_REQUEST_FIELDS = (JobBody.model_fields.keys() & JobRequest.model_fields.keys()) - {"candidates"}

_RECORD_POLL_S = 1.0  # reading the record takes a listing of the storage

JsonEvent = dict[str, Any]


@dataclass(frozen=True)
class JobBodies:
    """Describes jobs. Without Redis, queue positions are null and progress is the record's."""

    live: Live
    queue: TrainingQueue

    def one(self, job: Job) -> JobBody:
        """Return the description of a job."""
        return self.many([job])[0]

    def many(self, jobs: Sequence[Job]) -> list[JobBody]:
        """Return the descriptions of jobs, reading the queue once."""
        waiting = self._waiting() if any(job.status is JobStatus.QUEUED for job in jobs) else []
        return [self._body(job, waiting) for job in jobs]

    def _waiting(self) -> list[str]:
        try:
            return self.queue.waiting()
        except (RedisError, OSError):
            return []

    def _body(self, job: Job, waiting: Sequence[str]) -> JobBody:
        progress, asked = job.progress, None
        is_waiting = job.status is JobStatus.QUEUED and job.id in waiting
        if not job.status.is_final:
            try:
                progress = self.live.progress(job.id) or progress
                asked = self.live.pending_stop(job.id) if job.status is not JobStatus.PAUSED else None
            except (RedisError, OSError):
                pass
        return JobBody(
            id=job.id,
            status=job.status,
            created_at=int(job.created_at),
            updated_at=int(job.updated_at),
            attempt=job.attempt,
            queue_position=waiting.index(job.id) + 1 if is_waiting else None,
            asked=asked,
            model=job.model,
            early=job.early and EarlyModelBody(model=early_reference(job), since=job.early.since),
            progress=ProgressBody(**progress) if progress else None,
            error=job.error,
            pause_reason=job.pause_reason,
            candidates=list(dict.fromkeys(one.preset for one in job.request.candidates)),
            **{field: getattr(job.request, field) for field in _REQUEST_FIELDS},
        )


def events_so_far(event_log: EventLog, live: Live, job_id: str, *, after: int) -> list[JsonEvent]:
    """Return the events with numbers above `after`, in order. Without Redis, those in the log."""
    events = {event["id"]: event for event in event_log.read(job_id)}
    with contextlib.suppress(RedisError, OSError):
        events |= {event["id"]: event for event in live.events(job_id, after=after)}
    return [events[number] for number in sorted(events) if number > after]


class JobEventSource:
    """The events of one job, then the job once it is final."""

    def __init__(self, jobs: Jobs, event_log: EventLog, live: Live, job_id: str) -> None:
        self._jobs, self._event_log, self._live, self._job_id = jobs, event_log, live, job_id
        self._job: ExpiringCache[Job] = ExpiringCache(_RECORD_POLL_S)

    def last_number(self) -> int:
        """Return the number of the newest event, 0 if there is none."""
        events = self._so_far(after=0)
        return events[-1][0] if events else 0

    def read(self, after: int, limit: int) -> list[Numbered]:
        """Return up to `limit` events with numbers above `after`."""
        return self._so_far(after=after)[:limit]

    def poll(self, after: int) -> NewEvents:
        """Return the events with numbers above `after`, and the job if it is final."""
        job = self._job.get(self._job_id, lambda _: self._jobs.get(self._job_id))
        if job.status.is_final:  # the last events were written before it became final
            return NewEvents(self._so_far(after=after), job)
        with contextlib.suppress(RedisError, OSError):  # the log is read at the end
            return NewEvents([(event["id"], event) for event in self._live.events(self._job_id, after=after)])
        return NewEvents()

    def _so_far(self, *, after: int) -> list[Numbered]:
        events = events_so_far(self._event_log, self._live, self._job_id, after=after)
        return [(event["id"], event) for event in events]


class JobFeeds(Feeds):
    """The events of jobs that are followed."""

    @classmethod
    def of(cls, services: Services) -> Self:
        """Return the feeds of an application."""
        open_source = partial(JobEventSource, services.jobs, services.event_log, services.live)
        return cls(open_source, threads=services.pools.limiter(FEEDS), is_stopping=services.stopping.is_set)
