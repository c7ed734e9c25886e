"""Compiles all kernels for this machine and keeps them on disk: `python -m worker.warm_up`.

`make setup` does this, and so does a worker before it takes its first job. It takes some seconds the first
time on a machine and after an update, and half a second later on. Imports no TensorFlow.
"""

import logging
import subprocess
import sys

from models import compile_cache
from worker.settings import WorkerSettings

log = logging.getLogger("nextchar.worker")


def in_child_process() -> None:
    """Compile in a process of its own: its memory is freed, and a crash of the compiler ends only it.

    Jobs can be trained whatever comes of it: what is missing they compile themselves.
    """
    done = subprocess.run([sys.executable, "-m", "worker.warm_up"], check=False)
    if done.returncode:
        log.warning("kernels could not be compiled in advance (status %d); jobs will try", done.returncode)


def main() -> None:
    """Compile the kernels of training and of completions, where they are not on disk."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    compile_cache.use_cache_folder(WorkerSettings.load().data_dir)
    compile_cache.compile_kernels(compile_cache.TRAINING_KERNELS, compile_cache.RUNTIME_KERNELS)


if __name__ == "__main__":
    main()
