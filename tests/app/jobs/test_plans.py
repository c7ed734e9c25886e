from dataclasses import replace
from pathlib import Path
from typing import Any

import annotated_types
import pytest
from pydantic import BaseModel

from nextchar.app.jobs.plans import plan
from nextchar.app.jobs.schemas import JobCreate, NetworkOverride, TrainingOverride
from nextchar.models.auto_preset import BASE_RULE, MAX_BASE_CHARACTERS, RULES
from nextchar.models.base import find_base
from nextchar.models.config import PRESETS, NetworkConfig, TrainingConfig
from nextchar.models.errors import InvalidInput
from nextchar.models.saved_model import Card
from nextchar.store.corpus import Corpus, Encoding, Upload
from nextchar.store.jobs import JobRequest
from tests.logs import syslog


@pytest.mark.parametrize(
    ("override", "config"), [(NetworkOverride, NetworkConfig), (TrainingOverride, TrainingConfig)]
)
def test_overrides_have_the_limits_of_what_they_change(
    override: type[BaseModel], config: type[BaseModel]
) -> None:
    def limits(model: type[BaseModel], name: str) -> list[object]:
        kinds = (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
        return [m for m in model.model_fields[name].metadata if isinstance(m, kinds)]

    for name in override.model_fields:
        assert limits(override, name) == limits(config, name)
        assert limits(config, name) or config.model_fields[name].annotation is bool


TEXT = "the quick brown fox jumps over the lazy dog\n" * 20
START = Card(
    id="model_0197c2a1b3c4d5e6f7a8b",
    name="fox",
    version=3,
    created_at=0,
    network=NetworkConfig(layers=2, units=48, embedding=8, dropout=0.1),
    training=TrainingConfig(),
    characters="abc",
    parameters=1,
    files={},
)


def _corpus(tmp_path: Path, data: bytes = TEXT.encode(), *, encoding: Encoding = "utf-8") -> Corpus:
    with Upload(tmp_path, limit_bytes=10**6, encoding=encoding) as upload:
        upload.feed(data)
        return upload.finish()


def _plan(corpus: Corpus, *, start: Card | None = None, memory: int = 8 << 30, **body: Any) -> JobRequest:
    asked = JobCreate.model_validate({"corpus": corpus.id, "name": "new"} | body)
    return plan(asked, corpus, memory_limit_bytes=memory, start=start)


def test_a_job_that_starts_from_a_model_has_its_shape_and_the_presets_recipe(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path), start=START, start_from="fox", preset="medium")
    assert request.start_from == "fox@3"
    assert request.network == START.network
    assert request.training.learning_rate == PRESETS["medium"][1].learning_rate


def test_options_that_do_not_affect_the_weights_may_differ_from_the_start_model(tmp_path: Path) -> None:
    network = {"units": 48, "layers": 2, "dropout": 0.3}
    request = _plan(_corpus(tmp_path), start=START, start_from="fox", network=network)
    assert request.network == START.network.model_copy(update={"dropout": 0.3})


def test_auto_may_start_from_a_base_model_if_nothing_speaks_against_it(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path)
    request = _plan(corpus)
    assert request.base and request.start_from is None
    assert request.base.training.learning_rate == BASE_RULE.learning_rate
    chosen = request.with_base("base/english@1")
    assert (chosen.start_from, chosen.base, chosen.candidates) == ("base/english@1", None, ())
    assert (chosen.network, chosen.chosen_preset) == (BASE_RULE.network, "small")
    none_fits = request.with_base(None)
    assert none_fits == request.model_copy(update={"base": None}) and none_fits.candidates
    refusals: list[dict[str, Any]] = [
        {"base": False},
        {"preset": "small"},
        {"network": {"units": 512}},
        {"architecture": "nth_char"},
        {"alphabet": "bytes"},
    ]
    assert [_plan(corpus, **refusal).base for refusal in refusals] == [None] * len(refusals)
    assert _plan(corpus, start=START, start_from="fox").base is None
    assert _plan(_corpus(tmp_path, b"a fox. " * (MAX_BASE_CHARACTERS // 7))).base
    assert _plan(_corpus(tmp_path, b"a fox. " * (MAX_BASE_CHARACTERS // 7 + 1))).base is None


def test_a_base_model_that_is_named_is_trained_on_with_its_own_recipe(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path), start=find_base("base/english").card, start_from="base/english")
    assert (request.start_from, request.base) == ("base/english@1", None)
    assert request.network == BASE_RULE.network
    assert request.training.learning_rate == BASE_RULE.learning_rate


def test_fields_that_contradict_the_start_model_are_named(tmp_path: Path) -> None:
    network = {"units": 64, "embedding": 8, "layers": 1}
    with pytest.raises(InvalidInput) as caught:
        _plan(_corpus(tmp_path), start=START, start_from="fox", network=network, alphabet="bytes")
    assert (caught.value.code, caught.value.param) == ("contradicts_start_from", "network.layers")
    for difference in ("network.layers is 2, not 1", "network.units is 48, not 64", "alphabet"):
        assert difference in caught.value.message
    assert "embedding" not in caught.value.message


def test_a_corpus_of_bytes_can_continue_a_model_of_bytes_but_not_one_of_characters(tmp_path: Path) -> None:
    raw = _corpus(tmp_path, bytes(range(256)) * 2, encoding="bytes")
    assert _plan(raw, start=START.model_copy(update={"alphabet": "bytes"})).alphabet == "bytes"
    with pytest.raises(InvalidInput) as caught:
        _plan(raw, start=START)
    assert (caught.value.code, caught.value.param) == ("contradicts_corpus", "start_from")


def test_an_architecture_that_cannot_load_weights_cannot_be_started_from(tmp_path: Path) -> None:
    other = START.model_copy(update={"network": NetworkConfig(architecture="simple_rnn")})
    with pytest.raises(InvalidInput, match="simple_rnn, whose weights cannot be loaded") as caught:
        _plan(_corpus(tmp_path), start=other)
    assert caught.value.param == "start_from"


def test_a_validation_fraction_that_is_too_small_is_refused_with_one_that_suffices(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, TEXT.encode()[:400])
    with pytest.raises(InvalidInput, match=r"holds out 4 of 400 characters.* use 0.05 or more") as caught:
        _plan(corpus, validation_fraction=0.01)
    assert caught.value.param == "validation_fraction"
    assert _plan(corpus, validation_fraction=0.05)


def test_the_memory_of_a_vocabulary_that_grows_counts_both(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path)
    many = START.model_copy(update={"characters": "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))})
    limit = 800_000_000
    assert _plan(corpus, start=START, memory=limit)
    with pytest.raises(InvalidInput) as caught:
        _plan(corpus, start=many, memory=limit)
    assert caught.value.code == "network_too_large"


def test_masks_of_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="leave masks out") as caught:
        _plan(_corpus(tmp_path), alphabet="bytes", masks=["numbers"])
    assert (caught.value.code, caught.value.param) == ("masks_of_bytes", "masks")


LOG = "".join(line + "\n" for line in syslog(400)).encode()


def test_a_log_is_masked_by_default_and_the_request_says_why(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path, LOG))
    assert request.masks == ("timestamp", "ip", "long_numbers")
    assert request.masked_by_default
    for part in ("timestamp (400 of 400 lines)", "becomes 'ⓣ", '"masks": []'):
        assert part in request.masked_by_default


@pytest.mark.parametrize("masks", [[], ["timestamp"]])
def test_masks_that_are_given_are_the_masks(tmp_path: Path, masks: list[str]) -> None:
    request = _plan(_corpus(tmp_path, LOG), masks=masks)
    assert (request.masks, request.masked_by_default) == (tuple(masks), None)


def test_masks_that_are_slow_on_some_line_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="takes too long") as refused:
        _plan(_corpus(tmp_path), masks=["numbers", r"x(?:(?:\w{1,60}\s?){1,12}!)?"])
    assert refused.value.code == "invalid_mask"


def test_what_is_no_log_is_not_masked_by_default(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path))
    assert (request.masks, request.masked_by_default) == ((), None)


def test_bytes_cannot_be_masked_and_are_not_by_default(tmp_path: Path) -> None:
    assert _plan(_corpus(tmp_path, LOG), alphabet="bytes").masks == ()
    assert _plan(_corpus(tmp_path, LOG, encoding="bytes")).masks == ()


def test_a_log_that_masks_would_leave_too_little_of_is_not_masked(tmp_path: Path) -> None:
    times = "".join(f"2024-05-01T{i // 60:02}:{i % 60:02}:00\n" for i in range(120)).encode()
    corpus = _corpus(tmp_path, times)
    assert corpus.suggested_masks == ["timestamp"]
    assert _plan(corpus).masks == ()


@pytest.mark.parametrize("masks", [(), ("numbers",)])
def test_a_job_that_starts_from_a_model_has_its_masks(tmp_path: Path, masks: tuple[str, ...]) -> None:
    start = START.model_copy(update={"masks": masks})
    assert _plan(_corpus(tmp_path, LOG), start=start).masks == masks
    assert _plan(_corpus(tmp_path, LOG), start=start, masks=["ip"]).masks == ("ip",)


WORDS = "".join(f"{a}{b}{c}\n" for a in "abdefg" for b in "aeiou" for c in "klmnrst").encode()


def test_a_job_has_the_kind_of_its_corpus_unless_it_names_another(tmp_path: Path) -> None:
    assert _plan(_corpus(tmp_path)).kind == "text"
    words = _corpus(tmp_path, WORDS)
    assert _plan(words).kind == "records"
    assert _plan(words, kind="text").kind == "text"
    assert _plan(_corpus(tmp_path, WORDS, encoding="bytes")).kind is None
    assert _plan(_corpus(tmp_path, WORDS, encoding="bytes"), kind="records").kind == "records"


def test_only_a_log_is_masked_by_default(tmp_path: Path) -> None:
    log = _corpus(tmp_path, LOG)
    assert _plan(log, kind="log").masks == _plan(log).masks != ()
    assert _plan(log, kind="records").masks == _plan(replace(log, kind="text")).masks == ()


@pytest.mark.parametrize(
    ("options", "purpose", "is_masked"),
    [
        ({}, "anomalies", True),
        ({"purpose": "both"}, "both", True),
        ({"purpose": "complete"}, "complete", False),
        ({"purpose": "complete", "masks": "auto"}, "complete", True),
        ({"kind": "records"}, "both", False),
        ({"kind": "records", "purpose": "anomalies"}, "anomalies", True),
        ({"masks": "auto", "alphabet": "bytes"}, "anomalies", False),
    ],
)
def test_the_purpose_decides_whether_a_log_is_masked(
    tmp_path: Path, options: dict[str, Any], purpose: str, is_masked: bool
) -> None:
    request = _plan(_corpus(tmp_path, LOG), **options)
    assert (request.purpose, bool(request.masks)) == (purpose, is_masked)
    assert (request.masked_by_default is not None) == is_masked


def test_auto_masks_nothing_where_nothing_changes_from_line_to_line(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path), masks="auto")
    assert (request.masks, request.masked_by_default) == ((), None)


def test_records_of_one_line_are_refused(tmp_path: Path) -> None:
    line = _corpus(tmp_path, b"x" * 5000)
    assert _plan(line).kind == "text"
    with pytest.raises(InvalidInput, match="the corpus has 1;") as refused:
        _plan(line, kind="records")
    assert (refused.value.code, refused.value.param) == ("too_few_records", "kind")


def test_a_log_from_before_there_were_suggestions_is_not_masked(tmp_path: Path) -> None:
    old = replace(_corpus(tmp_path, LOG), kind=None, suggested_masks=[], log_sample=None)
    assert _plan(old).masks == ()


# Preset auto


def test_auto_has_all_presets_as_candidates_with_the_jobs_own_fields(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path), network={"dropout": 0.2}, training={"rows": 8}, seed=7)
    assert (request.preset, request.chosen_preset) == ("auto", None)
    for one, rule in zip(request.candidates, RULES, strict=True):
        assert (one.preset, one.min_steps) == (rule.preset, rule.min_steps)
        assert one.network == rule.network.model_copy(update={"dropout": 0.2})
        assert one.training == rule.training.model_copy(update={"rows": 8, "seed": 7})
    first = request.candidates[0]
    assert (request.network, request.training) == (first.network, first.training)


def test_auto_does_not_choose_networks_that_need_more_memory_than_the_limit(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path)
    limited = _plan(corpus, memory=900_000_000)
    assert [one.preset for one in limited.candidates] == ["tiny", "tiny", "small", "medium"]
    smallest = _plan(corpus, memory=620_000_000)
    assert (smallest.candidates, smallest.chosen_preset) == ((), "tiny")
    assert smallest.network == RULES[0].network
    with pytest.raises(InvalidInput) as caught:
        _plan(corpus, memory=600_000_000)
    assert caught.value.code == "network_too_large"


def test_auto_is_small_for_a_budget_without_seconds(tmp_path: Path) -> None:
    request = _plan(_corpus(tmp_path), budget={"steps": 5})
    assert (request.preset, request.chosen_preset, request.candidates) == ("auto", "small", ())
    assert request.network == PRESETS["small"][0]


@pytest.mark.parametrize(
    ("network", "budget", "presets"),
    [
        ({"units": 512}, {"seconds": 60}, ["small", "medium"]),
        ({"units": 512}, {"steps": 5}, ["small"]),
        ({"units": 128}, {"seconds": 60}, ["tiny", "tiny"]),
        ({"layers": 2}, {"seconds": 60}, ["medium", "large"]),
        ({"layers": 2}, {"epochs": 1}, ["medium"]),
        ({"layers": 3, "units": 700}, {"seconds": 60}, ["medium"]),
    ],
)
def test_auto_chooses_among_the_presets_nearest_to_the_layers_and_units_given(
    tmp_path: Path, network: dict[str, int], budget: dict[str, int], presets: list[str]
) -> None:
    request = _plan(_corpus(tmp_path), network=network, budget=budget)
    found = [one.preset for one in request.candidates] or [request.chosen_preset]
    assert found == presets
    assert request.network.model_dump().items() >= network.items()


def test_auto_gives_a_job_that_starts_from_a_model_the_recipe_of_the_nearest_preset(tmp_path: Path) -> None:
    wide = START.model_copy(update={"network": NetworkConfig(layers=2, units=1000)})
    request = _plan(_corpus(tmp_path), start=wide, start_from="fox")
    assert (request.network, request.candidates, request.chosen_preset) == (wide.network, (), "large")
    assert request.training.learning_rate == PRESETS["large"][1].learning_rate


def test_an_architecture_without_presets_has_none(tmp_path: Path) -> None:
    for preset in ({}, {"preset": "auto"}):
        request = _plan(_corpus(tmp_path), architecture="nth_char", **preset)
        assert (request.preset, request.chosen_preset, request.candidates) == (None, None, ())


def test_the_multiplier_of_the_learning_rate_applies_to_each_candidate(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path)
    body = JobCreate.model_validate({"corpus": corpus.id, "name": "new"})
    request = plan(body, corpus, memory_limit_bytes=8 << 30, learning_rate_multiplier=0.5)
    rates = [rule.training.learning_rate / 2 for rule in RULES]
    assert [one.training.learning_rate for one in request.candidates] == rates
    with pytest.raises(InvalidInput) as caught:
        plan(body, corpus, memory_limit_bytes=8 << 30, learning_rate_multiplier=900)
    assert caught.value.param == "learning_rate"


def test_suggestions_are_options_of_records_alone_and_their_patterns_are_checked(tmp_path: Path) -> None:
    corpus, excluded = _corpus(tmp_path), {"exclude_patterns": ["bad"]}
    request = _plan(corpus, kind="records", suggestions=excluded)
    assert request.suggestions
    assert request.suggestions.exclude_patterns == ["bad"]
    for kind, suggestions, code, param in (
        ("text", excluded, "suggestions_need_records", "suggestions"),
        ("records", {"exclude_patterns": ["("]}, "invalid_pattern", "suggestions.exclude_patterns"),
    ):
        with pytest.raises(InvalidInput) as caught:
            _plan(corpus, kind=kind, suggestions=suggestions)
        assert (caught.value.code, caught.value.param) == (code, param)
