"""Which devices train, and what is loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from worker import devices

ROOT = Path(__file__).parents[2]

JOB = """
import sys
from nextchar import local_training

model = local_training.train(
    "the cat sat on the mat. " * 40,
    budget={"steps": 2},
    network={"units": 8, "embedding": 4},
    training={"rows": 2, "window": 8},
    progress=False,
)
print("model.keras" in model._saved.card.files, *sorted({"tensorflow", "keras"} & set(sys.modules)))
"""


@pytest.mark.skipif(
    any(Path("/dev", name).exists() for name in devices._GPU_DEVICES), reason="there is a GPU"
)
def test_a_job_for_an_lstm_runs_on_a_cpu_without_tensorflow() -> None:
    done = subprocess.run([sys.executable, "-c", JOB], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_without_the_device_file_of_a_gpu_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)
    assert devices.gpus() == []


def test_with_the_device_file_of_a_gpu_tensorflow_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)
    monkeypatch.setattr(tf.config, "list_logical_devices", {"GPU": ["a", "b"]}.get)
    assert devices.gpus() == ["GPU:0", "GPU:1"]
