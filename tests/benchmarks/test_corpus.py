"""The corpora that are made for the benchmark of large ones."""

import os
import time

import pytest

from benchmarks.corpus import Use, blocks_of, descendants, text_of


@pytest.mark.parametrize("kind", ["text", "records", "log"])
def test_a_made_text_has_the_size_that_is_asked_for_and_is_the_same_each_time(kind: str) -> None:
    blocks, again = blocks_of(kind), blocks_of(kind)
    for size in (1, 12_345, 3_000_001):
        text = b"".join(text_of(blocks, size))
        assert len(text) == size
        assert text.decode().startswith("b")
        assert text == b"".join(text_of(again, size))


def test_memory_and_cpu_time_of_processes_are_watched() -> None:
    with Use(lambda: descendants(os.getpid())) as use:
        kept = bytearray(50_000_000)
        before = time.process_time()
        while time.process_time() - before < 0.1:
            sum(range(1000))
    assert use.peak_bytes > len(kept) and use.anonymous_bytes > 0
    assert 0.05 < use.cpu_s < 5
