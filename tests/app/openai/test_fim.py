import pytest

from nextchar.app.openai.requests import unwrap


@pytest.mark.parametrize(
    "wrapped",
    [
        "<|fim_prefix|>def f(<|fim_suffix|>):\n    pass<|fim_middle|>",
        "Context:\n\nother.py\n<|fim_prefix|>def f(<|fim_suffix|>):<|fim_middle|>",
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
        "<fim_suffix>):\n<fim_prefix>def f(<fim_middle>",
        "<fim_prefix><fim_suffix>):\n<fim_middle>def f(",
        "<fim-prefix>def f(<fim-suffix>):\n<fim-middle>",
        "<PRE> def f( <SUF>):\n <MID>",
        "<PRE> <SUF>):\n <MID> def f(",
        "<｜fim▁begin｜>def f(<｜fim▁hole｜>):\n<｜fim▁end｜>",
        "<|code_prefix|>def f(<|code_suffix|>):<|code_middle|>",
        "[SUFFIX]):\n[PREFIX]def f(",
        "def f(",
    ],
)
def test_text_before_the_cursor_is_the_prompt(wrapped: str) -> None:
    assert unwrap(wrapped) == "def f("


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "<fim_prefix> alone",
        "a <PRE> tag and a <SUF>, no third",
        "<fim_prefix>a<fim_suffix>b<fim_middle>c<fim_prefix>",
    ],
)
def test_what_is_not_wrapped_stays(prompt: str) -> None:
    assert unwrap(prompt) == prompt
