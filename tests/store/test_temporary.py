from pathlib import Path

import pytest

from nextchar.models.errors import DomainError
from nextchar.store.blobs import temporary_file


def test_a_temporary_file_has_no_name_and_its_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for _ in range(2):  # the folder is there already
        with temporary_file(folder) as file:
            file.write(b"text")
            file.seek(0)
            assert file.read() == b"text" and list(folder.iterdir()) == []
    with temporary_file() as file:
        file.write(b"anywhere")


def test_a_folder_that_cannot_be_made_is_an_error_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(DomainError):
        temporary_file(tmp_path / "a" / "b")
