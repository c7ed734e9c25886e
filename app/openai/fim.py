r"""Extraction of the prompt from fill-in-the-middle prompts, which editors send to code models.

A character model completes the text before the cursor and ignores the text after it. Each family of code
models has its own three markers, in its own order.

>>> unwrap("<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>x")
'def f(x'
>>> unwrap("[SUFFIX]):\n[PREFIX]def f("), unwrap("no <fim_prefix> of any kind")
('def f(', 'no <fim_prefix> of any kind')
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class _Markers:
    prefix: str  # before the text that precedes the cursor
    suffix: str  # before the text that follows the cursor
    middle: str | None  # before the text to be generated; None: the family has no such marker
    spaced: bool = False  # a space after the first and before the others is part of the markers


_FAMILIES = (
    _Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    _Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite, Mellum
    _Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _Markers("<PRE>", "<SUF>", "<MID>", spaced=True),  # Code Llama
    _Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    _Markers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    _Markers("[PREFIX]", "[SUFFIX]", None),  # Codestral
)


def unwrap(prompt: str) -> str:
    """Return the text before the cursor of a fill-in-the-middle prompt; any other prompt unchanged."""
    for markers in _FAMILIES:
        if markers.prefix in prompt and markers.suffix in prompt:
            text = _before_cursor(prompt, markers)
            if text is not None:
                return text
    return prompt


def _before_cursor(prompt: str, markers: _Markers) -> str | None:
    """Return the text after the prefix and middle markers; None if a marker is missing or repeated."""
    names = [name for name in (markers.prefix, markers.suffix, markers.middle) if name]
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", prompt)
    if sorted(parts[1::2]) != sorted(names):
        return None
    text = dict(zip(parts[1::2], parts[2::2], strict=True))
    prefix, middle = text[markers.prefix], text[markers.middle] if markers.middle else ""
    if markers.spaced:
        prefix = prefix.removeprefix(" ").removesuffix(" ")
        middle = middle.removeprefix(" ")
    return prefix + middle
