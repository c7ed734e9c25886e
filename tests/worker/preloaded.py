"""Loads what a training job needs, before a process is forked for it (`warm_worker.py`).

Reports of its jobs are about fewer generated characters; `test_memorization.py` has as many as production.
"""

import matplotlib.backends.backend_svg
import matplotlib.figure
import tensorboardX

from nextchar.models.kernels.compile_cache import SERVING, TRAINING, compile_kernels
from nextchar.worker import main, memorization, pipeline, tasks

assert all((matplotlib, tensorboardX, main, pipeline, tasks))
compile_kernels(*TRAINING, *SERVING)  # or loads them
memorization.CHARACTERS = 400  # thousands take a third of a small job
