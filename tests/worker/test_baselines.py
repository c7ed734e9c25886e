"""Baselines against cases whose answer is known."""

import gzip
from collections.abc import Callable

import numpy as np
import pytest

from nextchar.models.report import Report
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker import report
from nextchar.worker.report import NGRAM_ORDERS, encoder_of, measure_baselines


def _of(train: str, validation: str) -> Report:
    vocabulary = Vocabulary(train)
    return measure_baselines(vocabulary.encode(train), vocabulary.encode(validation), vocabulary)


def test_each_baseline_matches_a_hand_worked_case() -> None:
    found = _of("ab" * 50, "abab")
    assert found["baselines"]["uniform"] == pytest.approx(1.0)
    # Witten-Bell with one context: (50 + 2 / 2) / (100 + 2) is a half.
    assert found["baselines"]["unigram"] == pytest.approx(1.0)
    assert found["baselines"]["bigram"] < 0.1  # each character follows from the one before
    assert found["baselines"]["ngram"] == min(found["ngram_orders"])
    assert found["baseline_characters"] == {"ngram": 100, "compressed": 100, "judged": 4}


def test_compressors_have_read_the_training_text() -> None:
    rng = np.random.default_rng(1)
    noise = "".join(map(chr, rng.integers(97, 123, 20_000)))
    repeated = _of(noise, noise[5000:9000])
    fresh = _of(noise, "".join(map(chr, rng.integers(97, 123, 4000))))
    for kind in ("gzip", "xz", "ppmd"):
        assert repeated["baselines"][kind] < 0.5
        assert fresh["baselines"][kind] == pytest.approx(np.log2(26), abs=0.6)


def test_gzip_uses_only_its_window() -> None:
    rng = np.random.default_rng(2)
    old, new = ("".join(map(chr, rng.integers(97, 123, 40_000))) for _ in range(2))
    found = _of(old + new, old[:4000])
    assert found["baselines"]["gzip"] > 4
    assert found["baselines"]["xz"] < 0.5


def test_a_huge_text_is_read_in_part_with_the_sizes_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("MAX_BASELINE_CHARACTERS", 300), ("_COMPRESSED_CHARACTERS", 200)):
        monkeypatch.setattr(report, name, limit)
    monkeypatch.setattr(report, "_JUDGED_CHARACTERS", 50)
    found = _of("abc" * 500, "abc" * 100)
    assert found["baseline_characters"] == {"ngram": 300, "compressed": 200, "judged": 50}


def test_bytes_of_a_text_are_those_of_its_file() -> None:
    vocabulary = Vocabulary("aé字")
    assert encoder_of(vocabulary)(vocabulary.encode("字éa?")) == "字éa\ufffd".encode()
    raw = Vocabulary(map(chr, "字".encode()), "bytes")
    assert encoder_of(raw)(raw.encode(raw.to_characters("字"))) == "字".encode()


def test_order_of_strength_on_real_text(real_text: Callable[[str], str]) -> None:
    text = real_text("nietzsche.txt")
    found = _of(text[:400_000], text[400_000:440_000])
    bits = found["baselines"]
    assert bits["ppmd"] < bits["ngram"] < bits["xz"] < bits["gzip"] < bits["unigram"] < bits["uniform"]
    assert 4 <= found["ngram_order"] <= 6
    # What gzip needs for the whole file is close to what it needs after what comes before.
    alone = len(gzip.compress(text[:440_000].encode())) * 8 / 440_000
    assert bits["gzip"] == pytest.approx(alone, rel=0.1)


def test_n_grams_are_counted_in_the_training_text_alone() -> None:
    random = np.random.default_rng(0)
    train, held_out = random.integers(1, 5, 400, np.int32), random.integers(1, 5, 60, np.int32)
    counted = NgramModel.fit_ids(train, size=5, order=NGRAM_ORDERS)
    expected = counted.bits_by_order(held_out, before=train)
    assert measure_baselines(train, held_out, Vocabulary("abcd"))["ngram_orders"] == pytest.approx(expected)
