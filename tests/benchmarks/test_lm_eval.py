"""What the benchmark beside lm-evaluation-harness does before the harness runs."""

from pathlib import Path

import pytest

from benchmarks.lm_eval import DOCUMENT_CHARACTERS, main, split


def test_documents_are_the_end_of_the_text_and_not_learned_from() -> None:
    text = "".join(chr(97 + i % 23) for i in range(5 * DOCUMENT_CHARACTERS))
    learned, documents = split(text, 2)
    assert learned + "".join(documents) == text
    assert [len(document) for document in documents] == [DOCUMENT_CHARACTERS] * 2


def test_short_text_is_refused() -> None:
    with pytest.raises(ValueError, match="are needed"):
        split("x" * DOCUMENT_CHARACTERS, 1)


def test_missing_harness_is_named_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--harness", str(tmp_path / "lm_eval")])
    assert stop.value.code == 2 and "make bench-lm-eval" in capsys.readouterr().err
