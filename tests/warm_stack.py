"""The whole service whose jobs begin at once."""

from collections.abc import Mapping

from nextchar.launcher.processes import SupervisedProcess
from nextchar.launcher.stack import Stack


class WarmStack(Stack):
    """A stack whose worker loads libraries and kernels once, and not each of its children again."""

    def _program(self, name: str, module: str, environment: Mapping[str, str]) -> SupervisedProcess:
        return super()._program(name, "tests.worker.warm_main" if name == "worker" else module, environment)
