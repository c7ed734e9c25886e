"""Compiles the kernels for each level of `models.kernels.prebuilt`, for a container image.

Those of completions with every variant of the products, which a new container measures; and with the argument
those of training.

python -m nextchar.models.kernels.prebuild [training]
"""

import importlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from nextchar.models.kernels.compile_cache import SERVING, TRAINING, mark_compiled
from nextchar.models.kernels.prebuilt import FOLDER, TARGETS, settings
from nextchar.models.machine import available_cores


def compile_all(*, trains: bool) -> None:
    """Compile each level in a process of its own, whose numba has the level as its target, on all cores."""
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(partial(_compile, trains=trains), TARGETS if platform.machine() == "x86_64" else ()))


def _compile(level: str, *, trains: bool) -> None:
    (FOLDER / level).mkdir(parents=True)
    environment = {**os.environ, **settings(level), "NUMBA_CACHE_DIR": str(FOLDER / level)}
    program = [sys.executable, "-m", f"{__package__}.prebuild", level]
    subprocess.run([*program, "training"] if trains else program, env=environment, check=True)


def compile_for_target(level: str, *, trains: bool) -> None:
    """Compile for a level, the target in the environment. Runs nothing of it: this processor may lack it."""
    from nextchar.models.kernels.measurement import PRODUCTS
    from nextchar.models.kernels.product_kernels import compiled_product

    features = set(TARGETS[level][1].split())
    for product, kernels in PRODUCTS.items():
        for kernel in kernels:
            if kernel.features and kernel.features <= features:
                compiled_product(product, kernel)
    for module in dict.fromkeys((*SERVING, *TRAINING) if trains else SERVING):
        importlib.import_module(module)
        mark_compiled(module)


if __name__ == "__main__":
    levels, trains = [name for name in sys.argv[1:] if name in TARGETS], "training" in sys.argv
    compile_for_target(levels[0], trains=trains) if levels else compile_all(trains=trains)
