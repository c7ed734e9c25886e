from nextchar.worker import job_text as advice


def log(count: int, *, stamped: int) -> str:
    return "".join(
        f"Dec 10 06:{i % 60:02}:00 host: event\n" if i < stamped else "event\n" for i in range(count)
    )


def test_masks_are_advised_for_a_log_with_timestamps() -> None:
    told = advice.timestamps([log(100, stamped=90)])
    assert told and '"masks": ["timestamp"]' in told


def test_other_texts_get_no_advice() -> None:
    assert advice.timestamps([log(100, stamped=70)]) is None
    assert advice.timestamps([log(30, stamped=30)]) is None  # too short to tell
    assert advice.timestamps(["", "a text without lines " * 100]) is None
    assert advice.timestamps([]) is None


def test_only_the_beginning_of_a_large_text_is_read() -> None:
    pieces = iter([log(10_000, stamped=10_000), "never read"])
    assert advice.timestamps(pieces)
    assert next(pieces) == "never read"
