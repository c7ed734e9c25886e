"""What decides the last bits of a training run, so that a resumed run can report when it has changed.

The sum of float32 numbers depends on their order. One kernel keeps it; others have another order, another
number format of factors, or no fused multiply-add. Replicas split the rows over which gradients are summed.
Another version of nextchar, or of TensorFlow where it trains, may compute differently. So may, where
gradients are preconditioned, another version of NumPy or kind of processor. The number of threads changes
nothing.
"""

import platform
from dataclasses import dataclass, field

from nextchar.models.architectures import architecture
from nextchar.models.config import NetworkConfig
from nextchar.models.kernels.instruction_sets import available_levels
from nextchar.models.version import installed_version
from nextchar.worker.devices import gpus
from nextchar.worker.rows import replicas_of
from nextchar.worker.settings import Precision


@dataclass(frozen=True)
class Numerics:
    """What the last bits of some steps depend on; `nextchar.models.report.Numerics` explains the fields.

    Equal ones give the same bits from the same checkpoint, on CPUs.
    """

    product: str
    variant: str
    replicas: int
    tensorflow: str | None
    nextchar: str
    from_step: int = field(default=0, compare=False)

    def sentence_after(self, before: "Numerics", *, has_dropout: bool) -> str:
        """Return the message of a run that continues with these numerics, after steps with others."""
        names = {
            "other kernels": [f"{one.product} {one.variant}" for one in (before, self)],
            "another number of replicas": [f"{one.replicas}" for one in (before, self)],
            "another version of nextchar": [one.nextchar for one in (before, self)],
        }
        is_tensorflow = [one.tensorflow is not None for one in (before, self)]
        if all(is_tensorflow):
            names["another version of TensorFlow"] = [f"{one.tensorflow}" for one in (before, self)]
        changes = [f"{name} (from {old} to {new})" for name, (old, new) in names.items() if old != new]
        sentence = (
            f"the run continues with {' and '.join(changes)}, so its result can differ in the last bits from"
            " that of an uninterrupted run"
        )
        if has_dropout and (self.replicas != before.replicas or len({*is_tensorflow}) > 1):
            sentence += "; dropout masks differ, too"
        return sentence


def numerics_here(config: NetworkConfig, precision: Precision, *, rows: int, cores: int) -> Numerics:
    """Return the numerics of training B = `rows` in this process, on GPUs or on at most `cores` cores."""
    kind = architecture(config.architecture)
    devices = [] if kind.step else gpus()
    replicas = 1 if kind.step else replicas_of(rows, max_replicas=len(devices) or cores)
    if kind.build_for_kernels and not devices:
        return Numerics(*_kernel(precision), replicas, None, installed_version())
    import tensorflow as tf  # takes seconds

    product = "float16" if devices and precision == "mixed" else "float32"
    variant = _gpu_name() if devices else _library_variant()
    return Numerics(product, variant, replicas, tf.__version__, installed_version())


def _kernel(precision: Precision) -> tuple[str, str]:
    """Return the product and the variant of our own kernels."""
    from nextchar.models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL  # imports numba

    if precision == "mixed" and BFLOAT16_KERNEL:
        return "bfloat16", BFLOAT16_KERNEL.name
    return "float32", FLOAT32_KERNEL.name


def _library_variant() -> str:
    """Return the variant of products by TensorFlow or NumPy, which NEXTCHAR_ISA does not limit."""
    return f"library-{next(iter(available_levels()), platform.machine())}"


def _gpu_name() -> str:
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return next((str(one["device_name"]) for one in details if "device_name" in one), "GPU")
