"""Running hypothesis' state machines: a short fixed profile, or a long random one.

STATE_MACHINE_EXAMPLES=2000 .venv/bin/pytest tests -k machine
"""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))


def run(machine: Callable[[], RuleBasedStateMachine], *, examples: int = 25, steps: int = 40) -> None:
    """Run `examples` programs of up to `steps` random steps, the same ones each time.

    With STATE_MACHINE_EXAMPLES so many others are run, which hypothesis draws anew.
    """
    profile = settings(
        max_examples=_EXAMPLES or examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not _EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=profile)
