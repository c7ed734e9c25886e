"""The worker's settings, in addition to those of `nextchar.store.settings`."""

from typing import Literal

from pydantic import Field

from nextchar.models.machine import available_cores
from nextchar.store.settings import StoreSettings

Precision = Literal["mixed", "float32"]
PrecisionSetting = Literal["auto", "mixed", "float32"]


class WorkerSettings(StoreSettings):
    """Read from the environment by `load`."""

    queue: Literal["training", "batches"] = "training"
    """What this worker takes: training jobs, or batches of requests."""
    training_threads: int = Field(0, ge=0, le=256)
    """Cores to train on; 0: all that this process may use."""
    precision: PrecisionSetting = "auto"
    """Precision of matrix products in training: 16 bits where the machine supports them, or float32; by
    default the faster one, which is measured."""
    corpus_cache_bytes: int = Field(16 << 30, ge=64 << 20)
    """Disk space for the ids of a job's corpus, one byte per character as a rule; a larger corpus is read
    from the storage in chunks while it is trained on."""
    checkpoint_seconds: float = Field(10.0, gt=0, le=86400)
    """Seconds between checkpoints of a running job: the most training that can be lost."""

    max_jobs: int = Field(0, ge=0)
    """Exit after this many jobs or batches, or when none waits; 0: work until stopped."""

    @property
    def cores(self) -> int:
        """The number of cores to train on."""
        return self.training_threads or available_cores()
