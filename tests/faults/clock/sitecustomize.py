"""Python imports this at the start of every process of a fault round: a wall clock that can be made to jump.

TEST_CLOCK names a file of one little-endian double: seconds that are added to `time.time`. Monotonic clocks
do not jump.
"""

import mmap
import os
import struct
import time

if path := os.environ.get("TEST_CLOCK"):
    with open(path, "rb") as file:  # noqa: PTH123 -- pathlib would be imported in every process
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real_time, real_time_ns = time.time, time.time_ns

    def jumped_time() -> float:
        return real_time() + float(struct.unpack("<d", offset)[0])

    def jumped_time_ns() -> int:
        return real_time_ns() + int(1e9 * struct.unpack("<d", offset)[0])

    time.time, time.time_ns = jumped_time, jumped_time_ns
