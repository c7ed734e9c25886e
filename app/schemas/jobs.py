"""Training jobs: what is asked for, and what is told of them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.base import RequestBody
from models.config import ArchitectureName, Budget, Mix, NetworkConfig, Preset, TrainingConfig
from models.text.masks import MAX_MASKS, MAX_PATTERN_CHARACTERS, NAMED
from models.text.vocabulary import Alphabet
from store.ids import NAME_PATTERN
from store.jobs import JobStatus
from store.live import Request

EXAMPLE_CREATE: dict[str, Any] = {
    "corpus": "nietzsche",
    "name": "nietzsche",
    "preset": "small",
    "network": {"layers": 1, "units": 384},
    "budget": {"seconds": 120},
    "validation_fraction": 0.1,
    "seed": 7,
}

EXAMPLE: dict[str, Any] = {
    "id": "job_0197c2a1b3c4d5e6f7a8b",
    "object": "job",
    "status": "running",
    "created_at": 1795563600,
    "updated_at": 1795563602,
    "name": "nietzsche",
    "corpus": "corpus_98b1f0a4c2d5e6f708192a3b",
    "network": NetworkConfig().model_dump(),
    "training": TrainingConfig(budget=Budget(seconds=120), seed=7).model_dump(),
    "attempt": 1,
    "queue_position": None,
    "asked": None,
    "model": None,
    "progress": {
        "step": 812,
        "steps": 2400,
        "epoch": 1.7,
        "characters_per_second": 61200,
        "seconds_left": 66,
        "train_bits_per_character": 2.11,
        "validation_bits_per_character": 2.19,
        "sample": "the soul of the spirit of the",
    },
    "error": None,
    "pause_reason": None,
}

EXAMPLE_EVENT: dict[str, Any] = {
    "id": 3,
    "at": 1795563611.204,
    "type": "metrics",
    "data": {"step": 100, "train_bits_per_character": 3.02, "validation_bits_per_character": 3.11},
}


class BudgetBody(Budget):
    """When training ends: exactly one of the three."""

    model_config = ConfigDict(strict=True, json_schema_extra={"examples": [{"seconds": 120}]})


class NetworkOverride(RequestBody):
    """Changes to the preset's network; what is left out stays as the preset has it."""

    layers: int | None = Field(None, ge=1, le=8, description="Stacked LSTM layers.")
    units: int | None = Field(None, ge=4, le=4096, description="Hidden units of each layer.")
    embedding: int | None = Field(None, ge=2, le=1024, description="Numbers in a character's embedding.")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=0.95,
        description="Share of each LSTM output dropped while training; left out, the presets take the more,"
        " the more often the text is read.",
    )
    context: int | None = Field(None, ge=2, le=64, description="Characters that a window model sees.")


class TrainingOverride(RequestBody):
    """Changes to the preset's recipe; what is left out stays as the preset has it."""

    rows: int | None = Field(None, ge=1, le=4096, description="Parallel streams the corpus is cut into.")
    window: int | None = Field(
        None,
        ge=2,
        le=4096,
        description="Steps of truncated back-propagation through time, in characters.",
    )
    learning_rate: float | None = Field(None, gt=0, le=1, description="Peak rate of the one-cycle schedule.")
    weight_decay: float | None = Field(None, ge=0, le=1, description="Decoupled decay of AdamW.")
    clip_norm: float | None = Field(None, gt=0, le=1000, description="Largest global norm of a gradient.")


class JobCreate(RequestBody):
    """Train a network on a corpus and publish it as the next version of `name`."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_CREATE]})

    corpus: str = Field(max_length=128, description="The id or name of an uploaded corpus.")
    name: str = Field(
        pattern=f"^{NAME_PATTERN}$",
        description="What the model will be called; each finished job adds a version to it.",
    )
    architecture: ArchitectureName = Field(
        "stateful_lstm", description="The family of networks; `GET /v1/architectures` describes them."
    )
    preset: Preset = Field(
        "small",
        description="The network and recipe to start from; other architectures have one each, no presets.",
    )
    network: NetworkOverride = Field(NetworkOverride(), description="Changes to the preset's network.")
    training: TrainingOverride = Field(TrainingOverride(), description="Changes to the preset's recipe.")
    budget: BudgetBody = Field(
        BudgetBody(seconds=60),
        description="When training ends: exactly one of epochs, steps, seconds.",
    )
    validation_fraction: float = Field(
        0.1,
        ge=0.005,
        le=0.5,
        description="Share of the text, at its end, that is held out.",
    )
    seed: int = Field(
        1,
        ge=0,
        lt=2**31,
        description="The same seed on the same machine gives the same model.",
    )
    alphabet: Alphabet | None = Field(
        None,
        description="What a character is: a code point after NFC, or one byte of the UTF-8. Default: that of"
        " the model it starts from; else `bytes` for a corpus uploaded as bytes, and `characters`.",
    )
    coverage: float = Field(
        1.0,
        ge=0.5,
        le=1,
        description="Share of the training text that the vocabulary must cover. The rarest characters beyond"
        " it are unknown to the model: for alphabets of thousands, 0.9995 is a good value.",
    )
    start_from: str | None = Field(
        None,
        max_length=128,
        description="A model, `name` or `name@version`, whose weights and characters training begins with."
        " The network is then that model's, and the preset gives the recipe only.",
    )
    masks: list[Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS)]] | None = Field(
        None,
        max_length=MAX_MASKS,
        description="Services of the text that say nothing by their value, replaced by one character each:"
        f" {', '.join(NAMED)}, or RE2 expressions. Lines that the model scores are masked alike."
        " Default: those of the model it starts from or of the teacher; else the corpus's `suggested_masks`,"
        " which only logs have. `[]` masks nothing.",
    )
    mix: Mix | None = Field(
        None,
        description="A second text in a share of each batch's rows, as it is or as a teacher sees it.",
    )


class JobCancel(RequestBody):
    """How to end a job."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"keep_best": True}]})

    keep_best: bool = Field(
        False,
        description="Publish the best model so far before the job ends as `cancelled`. A job that has not"
        " been begun has none.",
    )


class ProgressBody(BaseModel):
    """How far training is. A trainer may tell more than these fields; what it does not know yet is null."""

    model_config = ConfigDict(extra="allow")

    step: int | None = Field(None, description="Optimizer steps done.")
    steps: int | None = Field(None, description="Optimizer steps in all; null until the speed is known.")
    epoch: float | None = Field(None, description="Passes over the training text so far.")
    characters_per_second: float | None = None
    seconds_left: float | None = None
    train_bits_per_character: float | None = None
    validation_bits_per_character: float | None = Field(None, description="At the newest evaluation.")
    sample: str | None = Field(None, description="Text generated at the newest evaluation.")
    attempt: int | None = Field(None, description="The attempt that this progress is of.")
    waiting_for_storage: str | None = Field(
        None,
        description="What keeps the trainer from writing how its attempt ended. It tries until that works.",
    )


class JobErrorBody(BaseModel):
    """Why a job failed or was paused."""

    code: str = Field(
        description="Stable and machine-readable, as `diverged`, `out_of_memory` or `storage_full`."
    )
    message: str = Field(description="A sentence that says what to do about it.")


class JobBody(BaseModel):
    """A training job as it stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    created_at: int = Field(description="Unix seconds, UTC.")
    updated_at: int = Field(description="When the status last changed. Unix seconds, UTC.")
    name: str = Field(description="The name of the model to be.")
    corpus: str = Field(description="The id of the corpus.")
    network: NetworkConfig
    training: TrainingConfig
    alphabet: Alphabet = "characters"
    coverage: float = 1.0
    start_from: str | None = Field(None, description="The model it starts from, `name@version`.")
    masks: tuple[str, ...] = Field((), description="What is masked in the text.")
    masked_by_default: str | None = Field(
        None, description="If the masks are those suggested for the text: why, and how to do without."
    )
    mix: Mix | None = Field(None, description="The second text that shares each batch, and its teacher.")
    attempt: int = Field(description="How often a worker has begun it.")
    queue_position: int | None = Field(
        description="1 for the next job to be trained; null when it is not waiting or Redis is down."
    )
    asked: Request | None = Field(description="What has been asked of the job and not yet been done.")
    model: str | None = Field(
        description="`name@version`, once the job has succeeded, or was cancelled with `keep_best`."
    )
    progress: ProgressBody | None
    error: JobErrorBody | None = Field(
        description="Set when the status is `failed`. `resume` tries again, from the last checkpoint while it"
        " is kept."
    )
    pause_reason: JobErrorBody | None = Field(
        None,
        description="Why a job was paused that nobody asked to pause. With a code that starts with `storage_`"
        " it goes on by itself when the storage works again; `resume` makes it try at once, and `pause` keeps"
        " it paused.",
    )


class EventBody(BaseModel):
    """One thing that happened to a job."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_EVENT]})

    id: int = Field(description="Rises with every event of the job; what `Last-Event-ID` and `after` name.")
    at: float = Field(description="When it happened. Unix seconds, UTC.")
    type: str = Field(description="`metrics`, `sample` or `message`; more may come.")
    data: dict[str, Any] = Field(description="What there is to tell; depends on the type.")
