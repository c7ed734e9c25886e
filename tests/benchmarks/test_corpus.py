"""The corpora that are made for the benchmark of large ones."""

import os

import pytest

from benchmarks.corpus import Memory, blocks_of, descendants, text_of


@pytest.mark.parametrize("kind", ["text", "records"])
@pytest.mark.parametrize("size", [1, 12_345, 3_000_001])
def test_a_made_text_has_the_size_that_is_asked_for_and_is_the_same_each_time(kind: str, size: int) -> None:
    text = b"".join(text_of(blocks_of(kind), size))
    assert len(text) == size
    assert text.decode().startswith("b")
    assert text == b"".join(text_of(blocks_of(kind), size))


def test_memory_of_processes_is_watched() -> None:
    with Memory(lambda: descendants(os.getpid())) as memory:
        kept = bytearray(50_000_000)
    assert memory.peak_bytes > len(kept) and memory.anonymous_bytes > 0
