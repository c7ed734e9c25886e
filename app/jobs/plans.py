"""From a client's request for a job to the complete request that a worker executes.

Every default is filled in and every error is found here, before the job is queued.
"""

from typing import Any

from nextchar.app.jobs.schemas import JobCreate, NetworkOverride
from nextchar.models.architectures import (
    DEFAULT,
    architecture,
    check_memory,
    check_options,
    estimate_training_bytes,
    resolve_training,
)
from nextchar.models.auto_preset import (
    BASE_RULE,
    MAX_BASE_CHARACTERS,
    RULES,
    WITHOUT_SECONDS,
    Candidate,
    Rule,
    nearest_presets,
)
from nextchar.models.base import is_base
from nextchar.models.config import (
    MINIMUM_CHARACTERS,
    MINIMUM_HELD_OUT_CHARACTERS,
    Budget,
    Mix,
    NetworkConfig,
    SuggestionConfig,
    TrainingConfig,
)
from nextchar.models.errors import InvalidInput
from nextchar.models.saved_model import Card
from nextchar.models.text.kind_detection import TextKind, default_purpose
from nextchar.models.text.masks import Masks, check_speed, compile_pattern
from nextchar.models.text.vocabulary import Alphabet
from nextchar.store.corpus import Corpus
from nextchar.store.ids import check_name
from nextchar.store.jobs import JobRequest

_EXAMPLE_CHARACTERS = 160  # of a line


def plan(
    body: JobCreate,
    corpus: Corpus,
    *,
    memory_limit_bytes: int,
    start: Card | None = None,
    second: Corpus | None = None,
    teacher: Card | None = None,
    learning_rate_multiplier: float = 1.0,
) -> JobRequest:
    """Return the complete request for a job on `corpus`.

    `start` is the model in `start_from`, `second` and `teacher` are the corpus and the model in `mix`.
    `memory_limit_bytes` limits the estimate of a network's training memory: preset `auto` does not choose a
    network that needs more. `learning_rate_multiplier` multiplies the rate of the preset.

    Raises:
        InvalidInput: the corpus is too small (code `corpus_too_small`) or has a single record
            (`too_few_records`), the network too large for the memory (`network_too_large`), the name invalid
            (`invalid_name`), an option not available for the architecture (`option_not_available`), or the
            request contradicts the model that it starts from (`contradicts_start_from`), the corpus
            (`contradicts_corpus`) or the mix (`contradicts_mix`, `mix_has_no_rows`).
    """
    if start:
        _check_start(body, start)
        body = body.model_copy(update={"architecture": start.network.architecture})
    alphabet = _alphabet(body, corpus, start)
    check_options(
        body.architecture,
        network=body.network.model_dump(exclude_none=True),
        training=body.training.model_dump(exclude_none=True),
    )
    kind = body.kind or corpus.kind
    purpose = body.purpose or default_purpose(kind)
    masks, masked_by_default = _masks(body, corpus, kind, alphabet, start=start, teacher=teacher)
    distinct = corpus.distinct_characters if alphabet == "characters" else 256
    known = len(start.characters) if start and alphabet == "characters" else 0
    request = JobRequest(
        corpus=corpus.id,
        name=check_name(body.name),
        **network_and_recipe(
            body,
            start,
            vocabulary_size=distinct + known + 1,
            memory_limit_bytes=memory_limit_bytes,
            learning_rate_multiplier=learning_rate_multiplier,
        ),
        alphabet=alphabet,
        kind=kind,
        purpose=purpose,
        coverage=body.coverage,
        start_from=start.reference if start else None,
        masks=masks,
        masked_by_default=masked_by_default,
        mixture=body.mixture,
        ready_early=body.mixture and body.ready_early,
        suggestions=body.suggestions,
        base=_base(body, corpus, start, learning_rate_multiplier) if alphabet == "characters" else None,
    )
    if request.masks and alphabet == "bytes":
        raise InvalidInput(
            "masks replace text by characters that the alphabet bytes does not have; leave masks out, or"
            " train on characters",
            code="masks_of_bytes",
            param="masks",
        )
    _check_length(corpus, alphabet, body.validation_fraction)
    _check_lines(corpus, kind)
    if body.suggestions:
        _check_suggestions(body.suggestions, kind)
    if body.mix and second:
        request = request.model_copy(update={"mix": _mix(body.mix, request, second, teacher)})
    return request


def _base(
    body: JobCreate, corpus: Corpus, start: Card | None, learning_rate_multiplier: float
) -> Candidate | None:
    """Return what a base model is trained with; None if the job must not start from one."""
    is_free = body.preset == "auto" and body.architecture == DEFAULT and body.network == NetworkOverride()
    if not (body.base and is_free) or start or body.mix or corpus.characters > MAX_BASE_CHARACTERS:
        return None
    return _candidate(body, None, BASE_RULE, learning_rate_multiplier)


def _masks(
    body: JobCreate,
    corpus: Corpus,
    kind: TextKind | None,
    alphabet: Alphabet,
    *,
    start: Card | None,
    teacher: Card | None,
) -> tuple[tuple[str, ...], str | None]:
    """Return the masks, and if they are the corpus's suggestion a message that says what they do."""
    if isinstance(body.masks, list):
        masks = Masks(body.masks)
        check_speed(masks.masks)
        return masks.masks, None
    if body.masks is None and (model := start or teacher):
        return model.masks, None
    sample = corpus.log_sample
    # A log whose kind is set to another one gets them only if the purpose includes anomalies.
    by_default = kind == "log" if body.purpose is None else body.purpose != "complete"
    is_wanted = body.masks == "auto" or by_default
    if not is_wanted or alphabet == "bytes" or not sample:
        return (), None
    masked_characters = sample["kept"] * corpus.characters * min(1.0, body.validation_fraction * 10)
    if masked_characters < 2 * MINIMUM_CHARACTERS:  # after masking, the text may be too short
        return (), None
    masks = Masks(corpus.suggested_masks)
    lines, example = sample["lines"], sample["example"][:_EXAMPLE_CHARACTERS]
    counts = ", ".join(
        f"{name} ({lines[name]:,} of {sample['sampled_lines']:,} lines)" for name in masks.masks
    )
    return masks.masks, (
        f"masked, because these values change from line to line in a sample of the text: {counts}. For"
        f" example {example!r} becomes {masks.apply(example).text!r}. Completions contain the placeholders"
        ' too; to generate text, pass "purpose": "complete" or "masks": []'
    )


def _check_start(body: JobCreate, start: Card) -> None:
    """Raise InvalidInput if a field contradicts the model that training starts from."""
    if not architecture(start.network.architecture).can_load_weights:
        raise InvalidInput(
            f"start_from: {start.reference} is a {start.network.architecture}, whose weights cannot be"
            " loaded; leave start_from out",
            code="contradicts_start_from",
            param="start_from",
        )
    requested: dict[str, object] = {
        f"network.{field}": getattr(body.network, field)
        for field in type(body.network).model_fields
        if field != "dropout"  # it does not affect the shape of the weights
    }
    requested["architecture"] = body.architecture if "architecture" in body.model_fields_set else None
    requested["alphabet"] = body.alphabet
    actual = {f"network.{field}": value for field, value in start.network.model_dump().items()}
    actual |= {"architecture": start.network.architecture, "alphabet": start.alphabet}
    wrong = [field for field, value in requested.items() if value is not None and value != actual[field]]
    if wrong:
        differences = ", ".join(f"{field} is {actual[field]}, not {requested[field]}" for field in wrong)
        raise InvalidInput(
            f"a job has the network of the model it starts from; in {start.reference} {differences}: leave"
            " these fields out",
            code="contradicts_start_from",
            param=wrong[0],
        )


def _mix(mix: Mix, request: JobRequest, second: Corpus, teacher: Card | None) -> Mix:
    """Return the mix with its corpus's id and its teacher's version. Raises InvalidInput."""
    rows = request.training.rows
    if not 0 < round(rows * mix.fraction) < rows:
        raise InvalidInput(
            f"mix.fraction: {mix.fraction:g} of {rows} rows is {round(rows * mix.fraction)}; each text needs"
            " at least one: use more rows or another fraction",
            code="mix_has_no_rows",
            param="mix.fraction",
        )
    if second.encoding == "bytes" and request.alphabet == "characters":
        raise InvalidInput(
            f"mix.corpus: {second.id} was uploaded as bytes, and this job's alphabet is characters",
            code="contradicts_mix",
            param="mix.corpus",
        )
    if teacher and (teacher.alphabet, teacher.masks) != (request.alphabet, request.masks):
        raise InvalidInput(
            f"mix.teacher: {teacher.reference} has the alphabet {teacher.alphabet} and the masks"
            f" {list(teacher.masks)}, and this job {request.alphabet} and {list(request.masks)}; they must be"
            " the same",
            code="contradicts_mix",
            param="mix.teacher",
        )
    return mix.model_copy(update={"corpus": second.id, "teacher": teacher.reference if teacher else None})


def _alphabet(body: JobCreate, corpus: Corpus, start: Card | None) -> Alphabet:
    if start:
        alphabet = start.alphabet
    else:
        alphabet = body.alphabet or ("bytes" if corpus.encoding == "bytes" else "characters")
    if corpus.encoding == "bytes" and alphabet == "characters":
        raise InvalidInput(
            f"corpus {corpus.id} was uploaded as bytes, and the alphabet is characters; upload it as UTF-8,"
            " or use the alphabet bytes",
            code="contradicts_corpus",
            param="start_from" if start else "alphabet",
        )
    return alphabet


def _check_length(corpus: Corpus, alphabet: Alphabet, validation_fraction: float) -> None:
    length = corpus.bytes if alphabet == "bytes" else corpus.characters
    if length < MINIMUM_CHARACTERS:
        raise InvalidInput(
            f"the corpus has {length} character{'' if length == 1 else 's'}, and training needs at least"
            f" {MINIMUM_CHARACTERS}",
            code="corpus_too_small",
            param="corpus",
        )
    held_out = round(length * validation_fraction)
    if held_out < MINIMUM_HELD_OUT_CHARACTERS:
        minimum = MINIMUM_HELD_OUT_CHARACTERS
        raise InvalidInput(
            f"validation_fraction holds out {held_out} of {length:,} characters and at least {minimum}"
            f" are needed; use {minimum / length:.3g} or more",
            code="too_little_held_out",
            param="validation_fraction",
        )


def _check_lines(corpus: Corpus, kind: TextKind | None) -> None:
    if kind == "records" and corpus.lines < 2:
        raise InvalidInput(
            f"the kind records needs at least two lines, because some are held out, and the corpus"
            f" has {corpus.lines};"
            ' use the kind "text", or a corpus with more lines',
            code="too_few_records",
            param="kind",
        )


def _check_suggestions(suggestions: SuggestionConfig, kind: TextKind | None) -> None:
    """Raise InvalidInput if lines are not suggested, or if a pattern is no RE2 expression."""
    if kind != "records":
        raise InvalidInput(
            f"suggestions are about the lines of records, and the kind is {kind}: leave them out, or use"
            ' "kind": "records"',
            code="suggestions_need_records",
            param="suggestions",
        )
    for pattern in suggestions.exclude_patterns:
        compile_pattern(pattern, code="invalid_pattern", param="suggestions.exclude_patterns")


def network_and_recipe(
    body: JobCreate,
    start: Card | None,
    *,
    vocabulary_size: int,
    memory_limit_bytes: int,
    learning_rate_multiplier: float,
) -> dict[str, Any]:
    """Return the fields of the JobRequest that say which network is trained, and how.

    `start` is the model that training starts from, whose network the job has. A network that needs more
    memory than the limit is not a candidate of preset `auto`.

    Raises:
        InvalidInput: no network fits the memory (code `network_too_large`), the architecture has no presets
            (`option_not_available`), or the multiplied rate is out of range.
    """
    if body.architecture != DEFAULT:
        if body.preset != "auto":
            raise InvalidInput(
                f"preset: only {DEFAULT} has presets; leave preset out for {body.architecture}",
                code="option_not_available",
                param="preset",
            )
        own = architecture(body.architecture)
        network, training = _with_overrides(body, start, own.network, own.training, learning_rate_multiplier)
        check_memory(network, training, vocabulary_size, memory_limit_bytes)
        return {"network": network, "training": training}
    rules = _rules(body, start)
    first, *larger = [_candidate(body, start, rule, learning_rate_multiplier) for rule in rules]
    check_memory(first.network, first.training, vocabulary_size, memory_limit_bytes)
    fitting = [
        one
        for one in larger
        if estimate_training_bytes(one.network, one.training, vocabulary_size) <= memory_limit_bytes
    ]
    fields: dict[str, Any] = {"preset": body.preset, "network": first.network, "training": first.training}
    if fitting:
        return fields | {"candidates": (first, *fitting)}
    return fields | {"chosen_preset": first.preset if body.preset == "auto" else None}


def _rules(body: JobCreate, start: Card | None) -> list[Rule]:
    """Return the preset's rule, or those that `auto` chooses from, smallest first."""
    if body.preset != "auto":
        return [Rule(body.preset, 0)]
    if start and is_base(start.name):
        return [BASE_RULE]
    if start:  # the network is fixed
        return [Rule(nearest_presets(layers=start.network.layers, units=start.network.units)[0], 0)]
    nearest = nearest_presets(layers=body.network.layers, units=body.network.units)
    if body.budget.seconds is not None:
        return [rule for rule in RULES if rule.preset in nearest]
    return [Rule(WITHOUT_SECONDS if WITHOUT_SECONDS in nearest else nearest[0], 0)]


def _candidate(body: JobCreate, start: Card | None, rule: Rule, learning_rate_multiplier: float) -> Candidate:
    network, training = _with_overrides(body, start, rule.network, rule.training, learning_rate_multiplier)
    return Candidate(
        preset=rule.preset,
        min_steps=rule.min_steps,
        min_characters=rule.min_characters,
        network=network,
        training=training,
    )


def _with_overrides(
    body: JobCreate,
    start: Card | None,
    network: NetworkConfig,
    training: TrainingConfig,
    learning_rate_multiplier: float,
) -> tuple[NetworkConfig, TrainingConfig]:
    """Return a preset's network and recipe with the fields of the request, which take precedence.

    The network is that of the model that training starts from, if any.
    """
    rate = training.learning_rate * learning_rate_multiplier
    if not 0 < rate <= 1:
        raise InvalidInput(
            f"learning_rate: {rate:g} is not in (0, 1]; use another multiplier", param="learning_rate"
        )
    network = NetworkConfig(
        **(start.network if start else network).model_dump()
        | body.network.model_dump(exclude_none=True)
        | {"architecture": body.architecture}
    )
    training = TrainingConfig(
        **training.model_dump(exclude={"budget"})
        | {"learning_rate": rate}
        | body.training.model_dump(exclude_none=True)
        | {"validation_fraction": body.validation_fraction, "seed": body.seed},
        budget=Budget(**body.budget.model_dump()),
    )
    return network, resolve_training(network, training)
