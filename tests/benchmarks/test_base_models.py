"""The command that trains the base models: which text it reads from clones."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import base_models
from benchmarks.base_models import main, plain_text, training_text

FILES = {f"part{number}.txt": f"{number} a line of part {number}\n" * 50 for number in range(10)}


@pytest.fixture
def clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clone of one repository, which the base model `tiny` is trained on."""
    repository = tmp_path / "owner/texts"
    repository.mkdir(parents=True)
    for name, content in FILES.items():
        (repository / name).write_text(content)
    (repository / "image.svg").write_text("<svg/>")
    git = ("git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.com")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "texts"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    text: dict[str, Any] = {
        "repository": "owner/texts",
        "commit": commit.stdout.strip(),
        "files": ["*.txt"],
        "max_characters": 10_000,
        "max_characters_per_file": 200,
    }
    monkeypatch.setattr(base_models, "SOURCES", {"tiny": {"steps": 1, "texts": [text]}})
    return tmp_path


def test_every_fifth_file_is_left_out_and_long_ones_are_cut(clones: Path) -> None:
    text = training_text("tiny", clones)
    assert {f"part{number}.txt" for number in range(10) if f"of part {number}" in text} == {
        name for name in FILES if name not in ("part4.txt", "part9.txt")
    }
    assert len(text) == 8 * 200 + 7
    assert text == training_text("tiny", clones)


def test_a_missing_clone_is_named_with_the_command_that_makes_it(
    clones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(clones / "elsewhere"), "tiny"])
    assert "git clone https://github.com/owner/texts" in capsys.readouterr().err


def test_the_paragraphs_of_xml_are_laid_out_in_three_ways() -> None:
    words = "A &amp; B walk " * 10
    xml = f"<TEI><teiHeader><p>no</p></teiHeader><body><head>I</head>\n<p>{words}\n<pb/>on.</p></body></TEI>"
    line = f"{words.replace('&amp;', '&')}on."
    assert plain_text(xml, number=1) == f"I\n{line}"
    assert plain_text(xml, number=2) == f"I\n\n{line}"
    wrapped = plain_text(xml, number=0)
    assert wrapped.replace("\n", " ") == f"I  {line}" and max(map(len, wrapped.split("\n"))) <= 72
