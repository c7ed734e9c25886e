"""Saved models as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.config import NetworkConfig, TrainingConfig

EXAMPLE: dict[str, Any] = {
    "id": "nietzsche@1",
    "object": "model",
    "name": "nietzsche",
    "version": 1,
    "created_at": 1795563730,
    "job": "job_0197c2a1b3c4d5e6f7a8b",
    "corpus": "corpus_98b1f0a4c2d5e6f708192a3b",
    "network": NetworkConfig().model_dump(),
    "parameters": 356693,
    "training": TrainingConfig().model_dump(),
    "characters": "\n !(),-.:;?ABCabc",
    "report": {"validation_bits_per_character": 1.96},
    "files": {"model.onnx": {"bytes": 1428000, "sha256": "0f" * 32}},
}


_LONG = ("training", "characters", "report", "files")


class ModelSummary(BaseModel):
    """One version of a model, in a list."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {k: v for k, v in EXAMPLE.items() if k not in ("training", "characters", "report", "files")}
            ]
        }
    )

    id: str = Field(description="`name@version`; with the bare name, calls reach the newest version.")
    object: Literal["model"] = "model"
    name: str
    version: int
    created_at: int = Field(description="Unix seconds, UTC.")
    job: str | None = Field(description="The job that trained it.")
    corpus: str | None = Field(description="The corpus it was trained on; it may be deleted by now.")
    network: NetworkConfig
    parameters: int = Field(description="Number of weights.")


class ModelFile(BaseModel):
    """A file that can be downloaded from `/v1/models/{model}/files/{name}`."""

    bytes: int
    sha256: str


class ModelBody(ModelSummary):
    """One version of a model, with everything its card tells."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    training: TrainingConfig
    characters: str = Field(description="The characters it knows, in code point order.")
    report: dict[str, Any] = Field(description="What the training run told of itself.")
    files: dict[str, ModelFile]
