import io
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from numpy.typing import NDArray

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.runtime.decoding import Sampler
from nextchar.models.runtime.int8_file import quantize_lstm
from nextchar.models.runtime.lstm_network import LstmNetwork
from nextchar.models.runtime.requests import CompletionRequest
from nextchar.models.runtime.session import GeneratingNetwork, Network, open_network
from tests.models.runtime.networks import random_weights

ROOT = Path(__file__).parents[3]
Floats = NDArray[np.float32]


def arrays_of(data: bytes) -> dict[str, NDArray[np.generic]]:
    with np.load(io.BytesIO(data)) as file:
        return dict(file)


def written(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def naive_step(data: bytes, ids: NDArray[np.int32], state: Floats) -> tuple[Floats, Floats]:
    """An int8 file evaluated in float64: hidden states are rounded to 1/127 before products."""
    a = {name: np.asarray(value, np.float64) for name, value in arrays_of(data).items()}
    layers = sum(name.endswith("/recurrent") for name in a)
    widths = [len(a[f"lstm_{i}/recurrent"]) for i in range(layers) for _ in "hc"]
    parts = np.split(state.astype(np.float64), np.cumsum(widths)[:-1], axis=1)
    logits = []
    for step_ids in ids:
        x = None
        for i in range(layers):
            h, c = parts[2 * i], parts[2 * i + 1]
            z = a["table"][step_ids] if x is None else x @ a[f"lstm_{i}/kernel"] * a[f"lstm_{i}/scale"]
            z = z + rounded(h) @ a[f"lstm_{i}/recurrent"] * a[f"lstm_{i}/scale"] + a.get(f"lstm_{i}/bias", 0)
            into, forget, cell, out = np.split(z, 4, axis=1)
            c = sigmoid(forget) * c + sigmoid(into) * np.tanh(cell)
            parts[2 * i], parts[2 * i + 1] = sigmoid(out) * np.tanh(c), c
            x = rounded(parts[2 * i])
        assert x is not None
        logits.append(x @ a["dense/kernel"] * a["dense/scale"] + a["dense/bias"])
    return np.stack(logits), np.concatenate(parts, axis=1)


def rounded(h: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor(h * 127 + 0.5) / 127


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


@st.composite
def networks(draw: st.DrawFn) -> tuple[bytes, int, NDArray[np.int32], Floats]:
    """Draw a file, its V, ids (T, B) and a state (B, S)."""
    units = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    v, steps, rows = draw(st.integers(2, 150)), draw(st.integers(1, 3)), draw(st.integers(3, 8))
    seed = draw(st.integers(0, 99))
    random = np.random.default_rng(seed)
    state = random.uniform(-0.9, 0.9, (rows, 2 * sum(units))).astype(np.float32)
    ids = random.integers(0, v, (steps, rows), np.int32)
    return quantize_lstm(random_weights(v, 3, units, seed=seed)), v, ids, state


@settings(deadline=None, max_examples=40)
@given(networks())
def test_step_agrees_with_a_plain_loop(drawn: tuple[bytes, int, NDArray[np.int32], Floats]) -> None:
    data, v, ids, state = drawn
    logits, after = LstmNetwork(data).step(ids, state)
    # One step only: a hidden state that is rounded differently changes all later ones.
    expected, _ = naive_step(data, ids[:1], state)
    near = np.abs(logits[:1] - expected).max(axis=2)
    assert logits.shape == (*ids.shape, v) and after.shape == state.shape
    assert np.quantile(near, 0.5) < 1e-4 and near.max() < 0.1


def test_many_steps_agree_with_a_plain_loop() -> None:
    data = quantize_lstm(random_weights(9, 3, [5, 4]))
    ids = np.random.default_rng(1).integers(0, 9, (40, 3), np.int32)
    logits, after = LstmNetwork(data).step(ids, np.zeros((3, 18), np.float32))
    expected, expected_after = naive_step(data, ids, np.zeros((3, 18), np.float32))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(after, expected_after, atol=1e-4)


def test_int8_is_near_the_float32_graph() -> None:
    weights = random_weights(50, 32, [64, 64])
    exact, small = Network(stateful_lstm_graph(weights)), LstmNetwork(quantize_lstm(weights))
    assert (small.V, small.S) == (exact.V, exact.S)
    ids = np.random.default_rng(0).integers(0, 50, (20, 2), np.int32)
    logits, _ = exact.step(ids, exact.initial_state(2))
    near, _ = small.step(ids, small.initial_state(2))
    assert np.abs(near - logits).mean() < 0.1 * logits.std()


def test_weights_that_int8_represents_exactly_give_the_float32_result() -> None:
    weights = random_weights(11, 4, [8, 6])
    for name, value in weights.items():
        if name.endswith(("kernel", "recurrent")):
            weights[name] = np.sign(value) * np.float32(0.5)
    exact, small = Network(stateful_lstm_graph(weights)), LstmNetwork(quantize_lstm(weights))
    state = exact.initial_state(3)  # so are the activations, which are 0
    logits, after = exact.step(np.array([[0, 5, 10]], np.int32), state)
    near, near_after = small.step(np.array([[0, 5, 10]], np.int32), state)
    first_layer = slice(0, 16)
    np.testing.assert_allclose(near_after[:, first_layer], after[:, first_layer], atol=1e-5)
    assert np.abs(near - logits).max() < 0.1


@pytest.fixture(scope="module")
def network() -> LstmNetwork:
    return LstmNetwork(quantize_lstm(random_weights(61, 19, [40, 24])))


@pytest.mark.parametrize("units", [[5], [40, 24], [6, 9, 7], [8, 3, 5, 4]])
def test_reading_with_two_threads_is_bit_identical_to_stepping(units: list[int]) -> None:
    network = LstmNetwork(quantize_lstm(random_weights(61, 5, units)))
    random = np.random.default_rng(0)
    ids, ends = random.integers(0, 61, 300, np.int32), [1, 4, 68, 132, 133, 197, 261, 290]
    start = random.uniform(-1, 1, (1, network.S)).astype(np.float32)
    before = start.copy()
    logits = np.empty((ends[-1], 1, network.V), np.float32)
    states = read_all(network, ids, ends, start, logits)
    assert len(read_all(network, ids, ends, start)) == len(ends)
    at = start
    for begin, end, state in zip([0, *ends], ends, states, strict=False):
        expected, at = network.step(ids[begin:end, None], at)
        np.testing.assert_array_equal(state, at)
        np.testing.assert_array_equal(logits[begin:end], expected)
    assert len(states) == len(ends)
    np.testing.assert_array_equal(start, before)
    assert network.read(ids, [], start) == []


def test_reading_stops_before_the_next_slice(network: LstmNetwork) -> None:
    ids, ends = np.zeros(64 * 10_000, np.int32), list(range(64, 64 * 10_001, 64))

    def read_for(seconds: float) -> list[NDArray[np.float32]]:
        stop = np.zeros(1, np.int64)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(network.read, ids, ends, network.initial_state(), stop)
            time.sleep(seconds)
            stop[0] = 1
            return reading.result()

    states = read_for(0.05)
    for seconds in (0.1, 0.2, 0.4, 0.8):  # on a machine that starts a thread late
        states = states or read_for(seconds)
    assert 0 < len(states) < len(ends)
    stop = np.ones(1, np.int64)
    _, state = network.step(ids[: ends[len(states) - 1], None], network.initial_state())
    np.testing.assert_array_equal(states[-1], state)
    assert network.read(ids, ends, network.initial_state(), stop) == []


def test_calling_thread_reads_what_a_busy_second_thread_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    network = LstmNetwork(quantize_lstm(random_weights(61, 5, [6, 9])))
    monkeypatch.setattr("nextchar.models.runtime.lstm_network.CORES", 2)
    busy = threading.Event()
    network._second.begin(busy.wait)
    ids, ends = np.arange(400, dtype=np.int32) % 61, [64, 128, 192, 256, 320, 384]
    held_up = network.read(ids, ends, network.initial_state())
    assert 0 < len(held_up) < len(ends)
    busy.set()
    monkeypatch.setattr("nextchar.models.runtime.lstm_network.CORES", 1)
    for state, expected in zip(held_up, network.read(ids, ends, network.initial_state()), strict=False):
        np.testing.assert_array_equal(state, expected)


def read_all(
    network: LstmNetwork,
    ids: np.ndarray,
    ends: list[int],
    state: np.ndarray,
    logits: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Continue where reading ended early because a thread got no core."""
    states: list[np.ndarray] = []
    while len(states) < len(ends):
        start = ends[len(states) - 1] if states else 0
        left = [end - start for end in ends[len(states) :]]
        rest = None if logits is None else logits[start:]
        some = network.read(ids[start:], left, states[-1] if states else state, logits=rest)
        assert some
        states += some
    return states


def test_threads_that_read_and_step_concurrently_are_independent(network: LstmNetwork) -> None:
    random = np.random.default_rng(5)
    ids, many = random.integers(0, 61, 640, np.int32), random.integers(0, 61, (4, 70), np.int32)
    ends, start = list(range(64, 641, 64)), network.initial_state()
    alone, together = read_all(network, ids, ends, start), network.step(many, network.initial_state(70))
    with ThreadPoolExecutor(4) as pool:
        read = [pool.submit(read_all, network, ids, ends, start) for _ in range(20)]
        stepped = [pool.submit(network.step, many, network.initial_state(70)) for _ in range(20)]
    for one in read:
        np.testing.assert_array_equal(one.result(), alone)
    for other in stepped:
        for mine, expected in zip(other.result(), together, strict=True):
            np.testing.assert_array_equal(mine, expected)


def test_only_steps_from_first_on_get_logits(network: LstmNetwork) -> None:
    ids = np.random.default_rng(0).integers(0, 61, (70, 3), np.int32)
    start = network.initial_state(3)
    logits, state = network.step(ids, start)
    for first in (0, 1, 20, 21, 22, 69, 70):
        some, same_state = network.step(ids, start, first)
        np.testing.assert_array_equal(some, logits[first:])
        np.testing.assert_array_equal(same_state, state)
    assert not start.any()


def test_generate_equals_alternating_step_and_choose(network: LstmNetwork) -> None:
    random = np.random.default_rng(3)
    ids, uniforms = random.integers(0, 61, 5, np.int32), random.random((9, 5))
    inverse_temperature = np.array([0, 1, 2, 0.5, 0], np.float32)
    start = random.uniform(-1, 1, (5, network.S)).astype(np.float32)
    chosen, logits, state = network.generate(ids, start, inverse_temperature, uniforms)
    at, last = start, ids
    for t in range(10):
        now, at = network.step(last[None], at)
        np.testing.assert_array_equal(now[0], logits[t])
        if t < 9:
            last = network.choose(now[0], inverse_temperature, uniforms[t])
            np.testing.assert_array_equal(last, chosen[t])
    np.testing.assert_array_equal(at, state)
    assert isinstance(network, GeneratingNetwork)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 300), st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0, 1.7]))
def test_choices_agree_with_the_sampler(v: int, seed: int, temperature: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (4, v)).astype(np.float32)
    uniforms = random.random(4)
    plain = Sampler([CompletionRequest(prompt="", temperature=temperature)] * 4, v)
    network = LstmNetwork(quantize_lstm(random_weights(3, 2, [2])))
    chosen = network.choose(logits, plain.inverse_temperature, uniforms)
    assert chosen.tolist() == plain.choose(logits, uniforms.tolist())


def test_ids_outside_the_vocabulary_are_refused(network: LstmNetwork) -> None:
    for bad in (-1, 61):
        for rows in (1, 40, 100):
            ids = np.zeros((1, rows), np.int32)
            ids[0, -1] = bad
            with pytest.raises(IndexError, match="from 0 to 60"):
                network.step(ids, network.initial_state(rows))
        with pytest.raises(IndexError, match="from 0 to 60"):
            network.read(np.array([bad], np.int32), [1], network.initial_state())


# Files


DATA = quantize_lstm(random_weights(7, 3, [5, 4]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense/bias": np.zeros(8, np.float32)}, "dense/bias"),
        ({"lstm_1/recurrent": np.zeros((4, 16), np.float32)}, "lstm_1/recurrent"),
        ({"lstm_0/scale": np.zeros(3, np.float32)}, "lstm_0/scale"),
        ({"table": np.zeros(3, np.float32)}, "cannot have the arrays"),
        ({"surplus": np.zeros(3, np.float32)}, "cannot have the arrays"),
        ({"table": np.array([object()])}, "not a file of int8 weights"),  # nothing is unpickled
    ],
)
def test_file_with_a_wrong_array_is_refused_with_its_name(
    changes: dict[str, NDArray[np.generic]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_network("model.int8.npz", written(arrays_of(DATA) | changes))


@pytest.mark.parametrize("data", [b"", b"not a file", DATA[:-100], DATA[:300] + DATA[400:]])
def test_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a file of int8 weights"):
        LstmNetwork(data)


def test_compressed_file_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as entries:
        entries.writestr("table.npy", bytes(1 << 20))
    with pytest.raises(ValueError, match=r"not a file of int8 weights: .*the limit is"):
        LstmNetwork(file.getvalue())


def test_file_is_deterministic() -> None:
    assert quantize_lstm(random_weights(7, 3, [5, 4])) == DATA


# Compiling


PROGRAM = """
import sys
import numpy as np
from nextchar.models.runtime.lstm_network import CACHE_LINE_BYTES, ROWS_OF_A_PART, LstmNetwork
from nextchar.models.runtime.int8_file import quantize_lstm
from tests.models.runtime.networks import random_weights
network = LstmNetwork(quantize_lstm(random_weights(61, 19, [40, 24])))
logits, _ = network.step(np.arange(60, dtype=np.int32).reshape(6, 10), network.initial_state(10))
sys.stdout.buffer.write(logits.tobytes())
"""


@pytest.mark.long  # compiles all kernels of the network, twice
def test_kernels_run_on_a_generic_processor_and_compile_concurrently(
    network: LstmNetwork, tmp_path: Path
) -> None:
    """Processors without byte instructions, two processes, an empty compile cache."""
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    generic["NUMBA_OPT"] = "1"  # compiles faster
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=os.environ | generic,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    (one, said), (other, _) = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], said[-2000:]
    assert one == other
    here, _ = network.step(np.arange(60, dtype=np.int32).reshape(6, 10), network.initial_state(10))
    np.testing.assert_allclose(np.frombuffer(one, np.float32), here.ravel(), atol=1e-4)
    assert list(tmp_path.rglob("*.nbi"))


def test_read_only_installation_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from nextchar.models.kernels.jit import compiled

    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "ZipCacheLocator")

    def double(x: Floats) -> None:
        x[0] *= 2

    value = np.ones(1, np.float32)
    compiled("void(float32[::1])")(double)(value)
    assert value[0] == 2
