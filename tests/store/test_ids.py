import time

import pytest

from nextchar.models.errors import InvalidInput
from nextchar.store.ids import check_name, is_id, new_id, time_of_id


def test_an_id_tells_when_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for at in (0.0, 1_795_563_600.123, 2**43 / 1000):  # the last is in the year 2248
        monkeypatch.setattr("nextchar.store.ids.time.time", lambda at=at: at)
        made = new_id("job")
        assert is_id("job", made) and len(made) == len("job_") + 21
        assert time_of_id("job", made) == pytest.approx(at, abs=0.001)
        assert time_of_id("corpus", made) is None


def test_ids_are_unique_and_sort_by_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({new_id("job") for _ in range(100)}) == 100
    made = []
    for second in range(5):
        monkeypatch.setattr("nextchar.store.ids.time.time", lambda second=second: 1.7e9 + second)
        made.append(new_id("job"))
    assert made == sorted(made)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("job_" + "0" * 12, True), ("job_" + "f" * 40, True), ("job_" + "0" * 11, False),
        ("job_" + "0" * 41, False), ("job_" + "F" * 12, False), ("model_" + "0" * 12, False),
        ("xjob_" + "0" * 12, False), ("job_" + "0" * 12 + "\n", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_an_id(text: str, is_one: bool) -> None:
    assert is_id("job", text) == is_one
    assert (time_of_id("job", text) is not None) == is_one


def test_the_time_of_an_id_is_in_seconds() -> None:
    now = time.time()
    assert time_of_id("job", f"job_{int(now * 1000):011x}aa") == pytest.approx(now, abs=0.001)


@pytest.mark.parametrize("name", ["a", "7", "a" * 64, "A.b_c-d", "jobs", "job", "models_1", "xjob_1"])
def test_valid_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a" * 65, ".a", "-a", "_a", "a b", "a/b", "a@1", "é", "a\n", "job_1", "model_x", "corpus_"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid name") as caught:
        check_name(name, param="to")
    assert (caught.value.code, caught.value.param) == ("invalid_name", "to")
