import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nextchar.app.completions.requests import LONG_PROMPT_CHARACTERS, prepare
from nextchar.app.http.limits import Limit
from nextchar.app.http.threads import Pools
from nextchar.models.errors import Busy
from nextchar.models.text.masks import MAX_PIECE_CHARACTERS, Masks, ModelMasks
from nextchar.models.text.vocabulary import Vocabulary, normalize

UNIT = "é 12 a\n"
LONG = UNIT * (LONG_PROMPT_CHARACTERS // len(UNIT) + 1)


def loaded(*masks: str) -> Any:
    masked = ModelMasks(Masks(masks))
    return SimpleNamespace(vocabulary=Vocabulary("\n aéⓝ"), masks=masked, has_masks=bool(masks))


def test_masked_texts_of_any_length_are_prepared_line_by_line() -> None:
    for lines in (1, 400, 2_000, 70_000):  # at once, in a worker thread, in the pool, and in several pieces
        prepared = asyncio.run(prepare("aé 12 ü 7\n" * lines, loaded("numbers"), Pools()))
        assert prepared == ("aé ⓝ ü ⓝ\n" * lines, ["ü"])
    prepared = asyncio.run(prepare("12 " * MAX_PIECE_CHARACTERS, loaded("numbers"), Pools()))
    assert prepared == ("ⓝ " * MAX_PIECE_CHARACTERS, [])


def test_long_texts_are_prepared_as_short_ones_are() -> None:
    model = loaded()
    for piece in ("a e\u0301 ", "e\u0301", "가", "Ж", "\u0301"):
        text = piece * (600_000 // len(piece))
        prepared = asyncio.run(prepare(text, model, Pools()))
        assert prepared == (normalize(text), model.vocabulary.unknown(normalize(text)))


def test_only_long_prompts_of_models_with_masks_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Limit("long prompts", "threads", 1, 0)
    monkeypatch.setattr("nextchar.app.completions.requests.LONG_PROMPTS", one)
    pools, is_begun, may_end = Pools(), threading.Event(), threading.Event()

    def occupy(_: object) -> None:
        is_begun.set()
        may_end.wait()

    async def prepare_beside() -> None:
        occupied = asyncio.ensure_future(pools.queue(one).run(occupy))
        await asyncio.to_thread(is_begun.wait)
        try:
            with pytest.raises(Busy):
                await prepare(LONG, loaded("numbers"), pools)
            await prepare(LONG[:LONG_PROMPT_CHARACTERS], loaded("numbers"), pools)
            await prepare(LONG * 100, loaded(), pools)
        finally:
            may_end.set()
            await occupied

    asyncio.run(prepare_beside())


def test_masking_ends_when_nobody_waits_for_it() -> None:
    calls = 0

    class EndedError(Exception):
        pass

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EndedError

    with pytest.raises(EndedError):
        loaded("numbers").masks.mask_lines("1." * 2 * MAX_PIECE_CHARACTERS, check=check)
