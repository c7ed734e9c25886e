import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nextchar.cli import followed_file
from nextchar.cli.followed_file import FollowedFile, Position

HEAD = "the first line of a log, which tells it from others\n"
MAX_BYTES = 1 << 16


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_file, "_GRACE_S", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "app.log"
    path.write_text(HEAD)
    return path


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def follow(log: Path, notes: list[str]) -> Callable[..., FollowedFile]:
    def follow(position: Position | None = None, *, from_start: bool = True) -> FollowedFile:
        return FollowedFile(log, position, from_start=from_start, note=notes.append)

    return follow


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def read_all(followed: FollowedFile, max_bytes: int = MAX_BYTES) -> str:
    """Return what is there now, in however many chunks."""
    text = ""
    while chunk := followed.read(max_bytes):
        text += chunk.data.decode()
        followed.advance(chunk)
    return text


def rename(log: Path) -> None:
    log.rename(log.with_name("app.log.1"))


def copytruncate(log: Path) -> None:
    shutil.copy(log, log.with_name("app.log.1"))
    os.truncate(log, 0)


def test_lines_come_once_they_are_complete(log: Path, follow: Callable[..., FollowedFile]) -> None:
    followed = follow()
    assert read_all(followed) == HEAD
    append(log, "a\nb")
    assert read_all(followed) == "a\n"
    append(log, "c\n")
    assert read_all(followed) == "bc\n"


def test_a_log_is_read_from_its_end_unless_it_is_new(log: Path, follow: Callable[..., FollowedFile]) -> None:
    append(log, "half a ")
    followed = follow(from_start=False)
    assert read_all(followed) == ""
    append(log, "line\n")
    assert read_all(followed) == "half a line\n"
    log.unlink()
    late = follow(from_start=False)
    assert read_all(late) == ""
    log.write_text("first\n")
    assert read_all(late) == "first\n"


def test_a_chunk_that_was_not_dealt_with_is_read_again(
    log: Path, follow: Callable[..., FollowedFile]
) -> None:
    followed = follow()
    first = followed.read(MAX_BYTES)
    append(log, "more\n")
    assert first is not None
    again = followed.read(MAX_BYTES, end=first.end)
    assert again == first
    followed.advance(again)
    assert read_all(followed) == "more\n"


def test_a_line_longer_than_a_chunk_comes_in_parts(log: Path, follow: Callable[..., FollowedFile]) -> None:
    log.write_text("a" * 25 + "\nb\n")
    followed = follow()
    chunk = followed.read(10)
    assert chunk is not None and chunk.data == b"a" * 10 + b"\n"
    assert followed.read(10, end=chunk.end) == chunk
    followed.advance(chunk)
    assert read_all(followed, 10) == "a" * 10 + "\n" + "a" * 5 + "\nb\n"


@pytest.mark.parametrize("rotate", [rename, copytruncate])
@pytest.mark.parametrize("is_watched", [True, False])
def test_no_line_is_lost_or_read_twice_by_rotation(
    log: Path, follow: Callable[..., FollowedFile], notes: list[str],
    rotate: Callable[[Path], None], is_watched: bool
) -> None:  # fmt: skip
    followed = follow()
    assert read_all(followed) == HEAD
    append(log, "before\n")
    if not is_watched:
        position = followed.position
        followed.close()
        followed = follow(position)
    rotate(log)
    append(log, "after\n")
    assert read_all(followed) == "before\nafter\n"
    append(log, "later\n")
    assert read_all(followed) == "later\n"
    assert notes == []


def test_a_renamed_log_is_read_while_there_is_no_new_one(
    log: Path, follow: Callable[..., FollowedFile]
) -> None:
    followed = follow()
    read_all(followed)
    rename(log)
    append(log.with_name("app.log.1"), "late\nunfinished")
    assert read_all(followed) == "late\n"
    followed = follow(followed.position)
    assert read_all(followed) == ""
    log.write_text("new\n")
    assert read_all(followed) == "unfinished\nnew\n"


def test_two_rotations_in_a_row_are_followed(log: Path, follow: Callable[..., FollowedFile]) -> None:
    followed = follow()
    read_all(followed)
    append(log, "one\n")
    rename(log)
    append(log, "two\n")
    assert read_all(followed) == "one\ntwo\n"
    log.rename(log.with_name("app.log.2"))
    append(log, "three\n")
    assert read_all(followed) == "three\n"


@pytest.mark.parametrize("is_watched", [True, False])
@pytest.mark.parametrize("names", ["app.log.3 app.log.2 app.log.1", "app-1127.log app-1128.log app-1129.log"])
def test_what_the_log_was_between_two_rotations_is_read_next(
    log: Path, follow: Callable[..., FollowedFile], names: str, is_watched: bool
) -> None:
    first, second, third = map(log.with_name, names.split())
    followed = follow()
    read_all(followed)
    append(log, "one\n")
    if not is_watched:
        position = followed.position
        followed.close()
        followed = follow(position)
    log.rename(first)
    append(first, "late\n")
    log.write_text("two\n")
    log.rename(second)
    log.write_text("three\n")
    for name in ("application.log", "app-2.log", "app-2-1128.log", "app.log.4", "app.log.1.gz"):
        log.with_name(name).write_text("of another log, or read before\n")
    assert read_all(followed) == "one\nlate\ntwo\nthree\n"
    append(first, "too late\n")
    log.rename(third)
    log.write_text("four\n")
    assert read_all(followed) == "four\n"


def test_what_the_log_was_is_found_though_the_file_before_it_was_compressed(
    log: Path, follow: Callable[..., FollowedFile]
) -> None:
    followed = follow()
    read_all(followed)
    append(log, "one\n")
    os.utime(log, (1, 1))
    log.unlink()
    for seconds, index in enumerate((3, 2, 1), 2):
        rotated = log.with_name(f"app.log.{index}")
        rotated.write_text(f"rotated {index}\n")
        os.utime(rotated, (seconds, seconds))
    log.write_text("new\n")
    assert read_all(followed) == "one\nrotated 3\nrotated 2\nrotated 1\nnew\n"


def test_a_truncated_log_that_has_grown_again_is_recognized_by_its_beginning(
    log: Path, follow: Callable[..., FollowedFile], notes: list[str]
) -> None:
    followed = follow()
    read_all(followed)
    log.write_text("another log that is longer than the one that was there before it was truncated\n")
    assert read_all(followed).startswith("another log")
    assert len(notes) == 1 and "may be missing" in notes[0]


def test_a_log_that_is_gone_is_told(log: Path, follow: Callable[..., FollowedFile], notes: list[str]) -> None:
    followed = follow()
    read_all(followed)
    position = followed.position
    followed.close()
    rename(log)
    log.with_name("app.log.1").unlink()  # compressed, for example
    log.write_text("new\n")
    assert read_all(follow(position)) == "new\n"
    assert f"after byte {len(HEAD)}" in notes[0]


def test_a_log_like_its_neighbor_is_not_taken_for_it(log: Path, follow: Callable[..., FollowedFile]) -> None:
    log.with_name("application.log").write_text("x\n" * 100)
    log.write_text("y\n")  # too short a beginning to recognize a copy by
    followed = follow()
    read_all(followed)
    log.unlink()
    log.write_text("z\n")
    assert read_all(followed) == "z\n"


def test_generations_tell_equal_places_apart(log: Path, follow: Callable[..., FollowedFile]) -> None:
    followed = follow()
    first = followed.read(MAX_BYTES)
    read_all(followed)
    copytruncate(log)
    assert read_all(followed) == ""
    append(log, HEAD)
    second = followed.read(MAX_BYTES)
    assert first is not None and second is not None
    assert first.start.offset == second.start.offset and first.end == second.end
    assert first.start.generation != second.start.generation
