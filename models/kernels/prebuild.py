"""Compiles the kernels of completions for each level of `models.kernels.prebuilt`, for a container image.

With every variant of the products, which a new container measures.

python -m nextchar.models.kernels.prebuild
"""

import importlib
import os
import platform
import subprocess
import sys

from nextchar.models.kernels.compile_cache import SERVING, mark_compiled
from nextchar.models.kernels.prebuilt import FOLDER, TARGETS, settings


def compile_all() -> None:
    """Compile each level in a process of its own, whose numba has the level as its target."""
    for level in TARGETS if platform.machine() == "x86_64" else ():
        (FOLDER / level).mkdir(parents=True)
        environment = {**os.environ, **settings(level), "NUMBA_CACHE_DIR": str(FOLDER / level)}
        subprocess.run([sys.executable, "-m", f"{__package__}.prebuild", level], env=environment, check=True)


def compile_for_target(level: str) -> None:
    """Compile for a level, the target in the environment. Runs nothing of it: this processor may lack it."""
    from nextchar.models.kernels.measurement import PRODUCTS
    from nextchar.models.kernels.product_kernels import compiled_product

    features = set(TARGETS[level][1].split())
    for product, kernels in PRODUCTS.items():
        for kernel in kernels:
            if kernel.features and kernel.features <= features:
                compiled_product(product, kernel)
    for module in SERVING:
        importlib.import_module(module)
        mark_compiled(module)


if __name__ == "__main__":
    compile_for_target(*sys.argv[1:]) if sys.argv[1:] else compile_all()
