"""Network architectures and their defaults."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from nextchar.app.http.schemas import with_examples
from nextchar.models.config import ArchitectureName, NetworkConfig, Preset, TrainingConfig

EXAMPLE: dict[str, Any] = {
    "id": "nth_char",
    "object": "architecture",
    "description": "The character after the last eight.",
    "network": NetworkConfig(architecture="nth_char", units=256, embedding=42, context=8).model_dump(),
    "training": TrainingConfig(rows=32, window=32, weight_decay=0.0).model_dump(exclude={"budget"}),
    "network_options": ["units", "embedding", "context"],
    "training_options": ["rows", "window", "learning_rate", "weight_decay", "clip_norm"],
    "presets": [],
    "notes_train_nats": 1.8,
    "notes_measure": "training loss",
}


class Recipe(BaseModel):
    """The default training options; the budget is the job's."""

    rows: int
    window: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    preconditioning: bool
    early_stopping: bool


class PresetBody(BaseModel):
    """A named network and recipe."""

    name: Preset
    network: NetworkConfig
    training: Recipe


class ArchitectureBody(BaseModel):
    """One architecture: its defaults, which of them a job may change, and the lecture notes' result."""

    model_config = with_examples(EXAMPLE)

    id: ArchitectureName = Field(description="What a job names as `architecture`.")
    object: Literal["architecture"] = "architecture"
    description: str = Field(description="One sentence.")
    network: NetworkConfig = Field(description="The default network.")
    training: Recipe
    network_options: list[str] = Field(description="Fields of a job's `network` that apply to it.")
    training_options: list[str] = Field(description="Fields of a job's `training` that apply to it.")
    presets: list[PresetBody] = Field(description="Values of a job's `preset`; most architectures have none.")
    notes_train_nats: float | None = Field(
        description="The lecture notes' training loss on Nietzsche, nats per character; null: none."
    )
    notes_measure: str = Field(description="What `notes_train_nats` measures.")
