"""Compiles all kernels for this machine and keeps them on disk: `python -m nextchar.worker.warm_up`.

`make setup` and the start of a worker do this. It takes some seconds the first time on a machine and after an
update, else half a second. Imports no TensorFlow.
"""

import logging
from pathlib import Path

from nextchar.models.kernels.compile_cache import (
    SERVING,
    TRAINING,
    compile_in_child_process,
    use_cache_folder,
)
from nextchar.worker.settings import WorkerSettings


def warm_up(data_dir: Path, *, trains: bool = True) -> None:
    """Compile the kernels of completions, and if it trains those of training, that are not on disk."""
    use_cache_folder(data_dir)
    compile_in_child_process(*(TRAINING if trains else ()), *SERVING)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warm_up(WorkerSettings.load().data_dir)
