"""Every environment variable that the worker reads, besides those of `store.settings`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from models.machine import available_cores
from store.settings import StoreSettings

Precision = Literal["mixed", "float32"]
PrecisionSetting = Literal["auto", "mixed", "float32"]


class WorkerSettings(StoreSettings):
    """Read from the environment by `load`."""

    training_threads: int = Field(
        0, ge=0, le=256, description="Cores to train on; 0 means all that this process may use."
    )
    precision: PrecisionSetting = Field(
        "auto",
        description="Of the matrix products in training: 16 bits where the machine can, or float32;"
        " by default what a measurement finds to be faster.",
    )
    tensorboard_dir: Path | None = Field(
        None,
        description="Folder for TensorBoard logs that are written while a job trains; by default none are.",
    )
    checkpoint_seconds: float = Field(
        10.0, gt=0, le=86400, description="How often a running job keeps a checkpoint: the most that is lost."
    )

    @property
    def cores(self) -> int:
        """The number of cores to train on."""
        return self.training_threads or available_cores()
