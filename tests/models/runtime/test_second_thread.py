import threading

import numpy as np
import pytest

from nextchar.models.runtime.lstm_network import SecondThread

IDS = np.arange(30, dtype=np.int32).reshape(3, 10)
STATE = np.arange(10, dtype=np.float32)[:, None]


def step(ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    assert ids.flags.c_contiguous
    return ids[..., None].astype(np.float32), state + ids.sum(axis=0)[:, None]


@pytest.mark.parametrize("rows", [1, 3, 5, 10, 64])
def test_parts_are_concatenated_in_order(rows: int) -> None:
    logits, states = SecondThread("test").share(step, IDS, STATE, rows=rows)
    np.testing.assert_array_equal(logits, IDS[..., None])
    np.testing.assert_array_equal(states, STATE + IDS.sum(axis=0)[:, None])


def test_calling_thread_does_all_parts_if_the_helper_is_busy() -> None:
    second, free = SecondThread("test"), threading.Event()
    waiting = second.begin(free.wait, 30)
    logits, _ = second.share(step, IDS, STATE, rows=2)
    np.testing.assert_array_equal(logits, IDS[..., None])
    free.set()
    assert waiting.result()


@pytest.mark.parametrize("bad", [0, 9])
def test_error_in_a_part_is_raised_after_both_threads_have_finished(bad: int) -> None:
    def fails(ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if bad in ids:
            raise MemoryError("no room")
        return step(ids, state)

    second = SecondThread("test")
    with pytest.raises(MemoryError, match="no room"):
        second.share(fails, IDS, STATE, rows=2)
    second.share(step, IDS, STATE, rows=2)


def test_with_one_core_a_step_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.models.runtime.lstm_network.CORES", 1)
    seen: list[int] = []

    def noting(ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(ids.shape[1])
        return step(np.ascontiguousarray(ids), state)

    SecondThread("test").share(noting, IDS, STATE, rows=2)
    assert seen == [10]
