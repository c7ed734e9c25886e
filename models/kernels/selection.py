"""The variants of the products that this process uses: those chosen by measurement, else the widest ones."""

from collections.abc import Sequence

from nextchar.models.kernels import variants
from nextchar.models.kernels.product_kernels import BFLOAT16, FLOAT32, INT8, ProductKernel, available

_measurements = variants.load()
_chosen = variants.chosen(_measurements)


def _selected(product: str, kernels: Sequence[ProductKernel]) -> ProductKernel | None:
    failed = {one.variant for one in _measurements if one.product == product and one.failure}
    usable = [kernel for kernel in available(kernels) if kernel.name not in failed]
    return next(
        (kernel for kernel in usable if kernel.name == _chosen.get(product)), next(iter(usable), None)
    )


INT8_KERNEL = _selected("int8", INT8) or INT8[-1]
FLOAT32_KERNEL = _selected("float32", FLOAT32) or FLOAT32[-1]
BFLOAT16_KERNEL = _selected("bfloat16", BFLOAT16)
"""None: this processor has none."""
