"""The stack of a fault round, in a process of its own that can be killed: data folder, port, Redis' URL.

It differs from `nextchar serve` in three ways: API and worker reach Redis through the proxy of the round; a
process that is killed once a round counts as stable between the rounds, so that its restart is not delayed
by those before; and lines that a dead process had taken are taken over after two seconds.
"""

import os
import sys
import threading
from pathlib import Path

from nextchar.launcher import processes as supervised_process
from nextchar.launcher.settings import LauncherSettings
from nextchar.launcher.stack import Stack

WORKER_SETTINGS = {"NEXTCHAR_CHECKPOINT_SECONDS": "1", "NEXTCHAR_TRAINING_THREADS": "1"}


def main(data_dir: str, port: str, redis_url: str) -> None:
    """Serve until killed."""
    supervised_process._STABLE_S = 2.0
    settings = LauncherSettings.model_validate({"data_dir": Path(data_dir), "port": int(port)})
    variables = {
        "NEXTCHAR_REDIS_URL": redis_url,
        "NEXTCHAR_INGEST_TAKEOVER_S": "2",
        "NEXTCHAR_MIN_FREE_BYTES": "0",  # so that the disk does get full
        **WORKER_SETTINGS,
        "PYTHONPATH": os.environ["PYTHONPATH"],  # with the clock first
    }
    with Stack(settings, environment=variables):
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
