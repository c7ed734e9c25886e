"""TensorBoard logs, read back by TensorFlow."""

from pathlib import Path
from typing import Any

import pytest

from nextchar.worker.report import event_file

AT = 1795563600.5
EVENTS: list[dict[str, Any]] = [
    {
        "at": AT + 1,
        "type": "metrics",
        "data": {
            "step": 100,
            "epoch": 0.5,
            "train_bits_per_character": None,
            "validation_bits_per_character": 2.5,
            "learning_rate": 0.01,
            "characters_per_second": 60_000.0,
        },
    },
    {"at": AT + 2, "type": "sample", "data": {"step": 100, "text": "# no heading\n<b>é"}},
    {"at": AT + 3, "type": "message", "data": {"text": "the text is small"}},
]


def _read(path: Path) -> list[Any]:
    tf = pytest.importorskip("tensorflow")
    return [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]


def test_metrics_and_samples_have_their_steps_and_times(tmp_path: Path) -> None:
    (tmp_path / "tfevents").write_bytes(event_file(EVENTS))
    version, *events = _read(tmp_path / "tfevents")
    assert (version.file_version, version.wall_time) == ("brain.Event:2", AT + 1)
    told = {value.tag: (event, value) for event in events for value in event.summary.value}
    event, value = told["bits_per_character/validation"]
    assert (event.step, event.wall_time, value.simple_value) == (100, AT + 1, 2.5)
    assert "bits_per_character/train" not in told
    event, value = told["sample/text_summary"]
    assert (event.step, event.wall_time) == (100, AT + 2)
    assert value.tensor.string_val[0].decode() == "    # no heading\n    <b>é"
    assert value.metadata.plugin_data.plugin_name == "text"
