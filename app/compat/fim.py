r"""Prompts that editors wrap for models that fill in the middle, unwrapped.

A character model goes on from what is before the cursor and cannot look behind it, so the text before the
cursor is the prompt, and the text after it is left out. Which markers stand for what is public: each family
of models has its own three, in an order of its own.

>>> unwrap("<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>x")
'def f(x'
>>> unwrap("[SUFFIX]):\n[PREFIX]def f("), unwrap("no <fim_prefix> of any kind")
('def f(', 'no <fim_prefix> of any kind')
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class _Markers:
    prefix: str  # what precedes the text before the cursor
    suffix: str
    middle: str | None  # what precedes the text to be written; None: nothing does
    spaced: bool = False  # a space after the first and before the others belongs to the markers


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
    """Return the text before the cursor of a wrapped prompt, and any other prompt as it is."""
    for markers in _FAMILIES:
        if markers.prefix in prompt and markers.suffix in prompt:
            found = _before_cursor(prompt, markers)
            if found is not None:
                return found
    return prompt


def _before_cursor(prompt: str, markers: _Markers) -> str | None:
    """Return what follows the prefix's marker and the middle's; None when a marker is missing or twice."""
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
