"""The histogram of characters."""

import subprocess
import sys
import time
from collections import Counter

import numpy as np

from nextchar.models.text.vocabulary import CharacterCounts


def test_counts_are_those_of_the_text_in_pieces() -> None:
    counts, text = CharacterCounts(), "a\U0010fffdé" * 3 + "\ud800\n"
    for piece in ("", text[:4], text[4:]):
        counts.add(piece)
    points = np.flatnonzero(counts.by_code_point)
    found = {chr(point): int(counts.by_code_point[point]) for point in points}
    assert found == Counter(text) and counts.total == len(text) and counts.distinct == 5


def test_short_piece_takes_no_longer_for_its_highest_character() -> None:
    def seconds(character: str) -> float:
        counts = CharacterCounts()
        began = time.thread_time()
        for _ in range(2000):
            counts.add(character)
        return time.thread_time() - began

    assert seconds("\U0010fffd") < 20 * seconds("a")  # an array to this character takes a thousand times


_HELD = """
from pathlib import Path
from nextchar.models.text.vocabulary import CharacterCounts

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident_bytes()
held = [CharacterCounts() for _ in range(40)]
for counts in held:
    counts.add("a \\U0010fffd")
print((resident_bytes() - before) // len(held))
"""


def test_histogram_takes_memory_for_the_characters_that_occur() -> None:
    answer = subprocess.run([sys.executable, "-c", _HELD], capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 200_000
