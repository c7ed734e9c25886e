"""Every environment variable that the worker reads, besides those of `store.settings`."""

import os

from pydantic import Field

from store.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """Read from the environment by `load`."""

    training_threads: int = Field(
        0, ge=0, le=256, description="Cores to train on; 0 means all that this process may use."
    )
    checkpoint_seconds: float = Field(
        10.0, gt=0, le=86400, description="How often a running job keeps a checkpoint: the most that is lost."
    )

    @property
    def cores(self) -> int:
        """The number of cores to train on."""
        return self.training_threads or len(os.sched_getaffinity(0))
