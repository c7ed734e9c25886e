"""Which devices train, and what is loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nextchar.models.config import NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from nextchar.worker import devices
from nextchar.worker.hooks import Hooks
from nextchar.worker.prepared_text import Text
from nextchar.worker.training import fit

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


@pytest.mark.parametrize(("chosen", "has_file"), [(None, False), ("-1", True), ("", True)])
def test_no_gpu_is_missed_where_none_is_expected(
    chosen: str | None, has_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(chosen, has_file, tmp_path, monkeypatch)
    assert devices.gpu_problem() is None


def test_a_gpu_that_cannot_be_used_is_a_message_and_one_that_was_named_refuses_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    hooks = Hooks(event=lambda _, data: events.append(data.get("text", "")), stop=lambda: "cancel")
    text = Text.split("the cat sat on the mat. " * 40, validation_fraction=0.2)
    config, training = NetworkConfig(units=4, embedding=2), TrainingConfig(rows=2, window=8)
    _set(None, True, tmp_path, monkeypatch)
    fit(config, training, text, precision="float32", hooks=hooks)
    assert f"TensorFlow sees no GPU, although there is {tmp_path / 'nvidia0'}" in events[0]
    _set("0", False, tmp_path, monkeypatch)
    with pytest.raises(InvalidInput, match="although CUDA_VISIBLE_DEVICES is '0'") as caught:
        fit(config, training, text, precision="float32", hooks=hooks)
    assert caught.value.code == "gpu_unavailable"


def _set(chosen: str | None, has_file: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set CUDA_VISIBLE_DEVICES and the device files, with a TensorFlow that has no CUDA."""
    monkeypatch.setattr(devices, "_DEVICES", folder)
    monkeypatch.setattr(devices, "gpus", list)
    (folder / "nvidia0").unlink(missing_ok=True)
    if has_file:
        (folder / "nvidia0").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
