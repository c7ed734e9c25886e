import numpy as np
import pytest

from nextchar.worker.rows import Rows, replicas_of

IDS = np.arange(1000, dtype=np.int32)


def test_window_k_of_a_row_is_followed_by_window_k_plus_one() -> None:
    rows = Rows.cut(IDS, rows=3, window=7)
    for epoch in range(3):
        for k in range(rows.windows_per_epoch - 1):
            x, _ = rows.window_at(epoch=epoch, index=k)
            after, _ = rows.window_at(epoch=epoch, index=k + 1)
            assert (after[0] == x[-1] + 1).all()


def test_targets_are_the_characters_after_the_inputs() -> None:
    rows = Rows.cut(IDS, rows=3, window=7)
    x, y = rows.window_at(epoch=1, index=2)
    assert x.shape == y.shape == (7, 3)
    assert (y == x + 1).all()


def test_no_two_rows_read_the_same_character_in_an_epoch() -> None:
    rows = Rows.cut(IDS, rows=3, window=7)
    seen = np.concatenate(
        [rows.window_at(epoch=0, index=k)[0].ravel() for k in range(rows.windows_per_epoch)]
    )
    assert len(set(seen)) == len(seen)


def test_characters_that_one_epoch_skips_are_read_by_another() -> None:
    rows = Rows.cut(IDS[:100], rows=2, window=12)
    seen = {
        int(i)
        for epoch in range(40)
        for k in range(rows.windows_per_epoch)
        for i in rows.window_at(epoch=epoch, index=k)[0].ravel()
    }
    assert seen == set(range(98))  # all but the last, and the remainder of 99 characters in two rows


@pytest.mark.parametrize(
    ("characters", "rows", "window"), [(1000, 3, 64), (257, 1, 64), (200, 1, 64), (30, 1, 29), (3, 1, 2)]
)
def test_a_small_text_gets_fewer_rows_then_shorter_windows(characters: int, rows: int, window: int) -> None:
    cut = Rows.cut(IDS[:characters], rows=32, window=64)
    assert (cut.rows, cut.window) == (rows, window)
    assert cut.windows_per_epoch >= 1


def test_a_text_too_short_for_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least three"):
        Rows.cut(IDS[:2], rows=1, window=1)


def test_all_rows_restart_at_the_start_of_every_epoch() -> None:
    rows = Rows.cut(IDS, rows=3, window=7)
    for epoch in range(3):
        assert list(rows.starting_rows(epoch=epoch, index=0)) == [slice(0, 3)]
        assert list(rows.starting_rows(epoch=epoch, index=1)) == []


@pytest.mark.parametrize(
    ("rows", "max_replicas", "replicas"), [(7, 4, 1), (7, 7, 7), (6, 4, 3), (4, 4, 4), (4, 3, 2), (1, 8, 1)]
)
def test_replicas_have_equally_many_rows_each(rows: int, max_replicas: int, replicas: int) -> None:
    assert replicas_of(rows, max_replicas=max_replicas) == replicas
