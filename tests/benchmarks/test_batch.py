"""The benchmark of batches, in short."""

from typing import Any, cast

from tests.benchmarks.test_serving import run


def test_workers_are_compared_with_one_process() -> None:
    arguments = ("--engines", "local", "--actors", "1", "--megabytes", "0.05", "--part-megabytes", "0.01")
    table, found = run("benchmarks.batch", *arguments, "--network", "1x16")
    runs = cast(dict[str, dict[str, Any]], found["runs"])
    assert list(runs) == ["one process", "local, 1 workers"]
    for figures in runs.values():
        assert figures["lines_per_s"] > 0 and figures["efficiency"] > 0
    assert len(table) == 4
