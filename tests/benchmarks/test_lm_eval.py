"""What the benchmark beside lm-evaluation-harness does before the harness runs."""

from benchmarks.lm_eval import DOCUMENT_CHARACTERS, split


def test_documents_are_the_end_of_the_text_and_not_learned_from() -> None:
    text = "".join(chr(97 + i % 23) for i in range(5 * DOCUMENT_CHARACTERS))
    learned, documents = split(text, 2)
    assert learned + "".join(documents) == text
    assert [len(document) for document in documents] == [DOCUMENT_CHARACTERS] * 2
