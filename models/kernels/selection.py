"""Which variant of each product this process uses."""

from models.kernels.instruction_sets import target_features
from models.kernels.product_kernels import BFLOAT16, FLOAT32, INT8, ProductKernel, available

_FEATURES = target_features()

INT8_KERNEL = available(INT8, _FEATURES)[0]
FLOAT32_KERNEL = available(FLOAT32, _FEATURES)[0]
BFLOAT16_KERNEL: ProductKernel | None = next(iter(available(BFLOAT16, _FEATURES)), None)
"""None: this processor has none."""
