from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.anomaly_sets import SETS, labeled_file

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", list(SETS))
def test_sets_are_the_same_every_time_and_have_both_kinds(name: str, real_text: Callable[[str], str]) -> None:
    for text in ("bgl_2k_labelled.tsv", "http_params_labelled.tsv", "openssh_2k.log", "nietzsche.txt"):
        real_text(text)
    task = SETS[name](DATA)
    assert task == SETS[name](DATA)
    assert len(task.lines) == len(task.anomalous) and 0 < sum(task.anomalous) < len(task.anomalous)
    assert len(task.train) > 500 and not any("\n" in line for line in (*task.train, *task.lines))


def test_a_file_of_labeled_lines_is_a_set(tmp_path: Path) -> None:
    rows = [f"{int(i % 5 == 4)}\tmade\tline\t{i}" for i in range(50)]
    (tmp_path / "made.tsv").write_text("\n".join(rows) + "\n")
    task = labeled_file(tmp_path / "made.tsv")
    assert task.train == [f"line\t{i}" for i in range(35) if i % 5 != 4]
    anomalous = {line for line, truth in zip(task.lines, task.anomalous, strict=True) if truth}
    assert anomalous == {f"line\t{i}" for i in range(4, 50, 5)} and len(task.lines) == 12 + 10


def test_anomalous_lines_of_made_sets_are_rarely_normal_ones(real_text: Callable[[str], str]) -> None:
    real_text("nietzsche.txt")
    for name in ("calls", "domains", "requests"):
        task = SETS[name](DATA)
        anomalous = [
            line for line, is_anomalous in zip(task.lines, task.anomalous, strict=True) if is_anomalous
        ]
        assert sum(line in set(task.train) for line in anomalous) < 0.02 * len(anomalous)


def test_logs_are_judged_on_what_came_later(real_text: Callable[[str], str]) -> None:
    rows = [row.split("\t", 2)[2] for row in real_text("bgl_2k_labelled.tsv").splitlines()]
    task = SETS["bgl"](DATA)
    assert [row.split(" ", 8)[-1] for row in rows[-len(task.lines) :]] == task.lines
