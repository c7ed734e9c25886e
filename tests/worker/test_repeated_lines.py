from nextchar.worker.prepared_text import Text
from nextchar.worker.report import measure_repeated_lines


def test_held_out_lines_that_are_training_lines_are_counted() -> None:
    train, held_out = "anna\nben\nanna\ncarla\n", "anna\nann\nben\ndora\n"
    text = Text.split(train + held_out, validation_fraction=len(held_out) / len(train + held_out))
    assert measure_repeated_lines(text.train, text.validation, text.vocabulary) == {
        "compared": 4,
        "repeated_share": 0.5,
    }
