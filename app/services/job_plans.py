"""From what a client asks to be trained to what a worker is told.

Every default is filled in and every mistake found now. Knows no storage and no queue.
"""

from app.schemas.jobs import JobCreate
from models.architectures import DEFAULT, architecture, check_options, resolve_training
from models.config import (
    MINIMUM_CHARACTERS,
    MINIMUM_HELD_OUT_CHARACTERS,
    PRESETS,
    Budget,
    Mix,
    NetworkConfig,
    TrainingConfig,
    check_memory,
)
from models.errors import InvalidInput
from models.saved_model import Card
from models.text.masks import NAMED, Masks
from models.text.vocabulary import Alphabet
from store.corpora import Corpus
from store.ids import check_name
from store.jobs import JobRequest


def plan(
    body: JobCreate,
    corpus: Corpus,
    *,
    memory_limit_bytes: int,
    start: Card | None = None,
    second: Corpus | None = None,
    teacher: Card | None = None,
) -> JobRequest:
    """Return the complete request for a job on `corpus`, which begins with the weights of the model `start`.

    `second` and `teacher` are what `body.mix` names.

    Raises:
        InvalidInput: the corpus is too small (code `corpus_too_small`), the network too large for the
            memory (`network_too_large`), the name is not one (`invalid_name`), the architecture does not
            have an option that is given (`option_not_available`), or what is asked for contradicts the
            model that it is to start from (`contradicts_start_from`), the corpus (`contradicts_corpus`) or
            what is to be mixed in (`contradicts_mix`, `mix_has_no_rows`).
    """
    if start:
        _check_start(body, start)
        body = body.model_copy(update={"architecture": start.network.architecture})
    alphabet = _alphabet(body, corpus, start)
    network, training = _defaults(body)
    if start:
        network = start.network
    check_options(
        body.architecture,
        network=body.network.model_dump(exclude_none=True),
        training=body.training.model_dump(exclude_none=True),
    )
    masks, masked_by_default = _masks(body, corpus, alphabet, start=start, teacher=teacher)
    request = JobRequest(
        corpus=corpus.id,
        name=check_name(body.name),
        network=NetworkConfig(
            **network.model_dump()
            | body.network.model_dump(exclude_none=True)
            | {"architecture": body.architecture}
        ),
        training=TrainingConfig(
            **training.model_dump(exclude={"budget"})
            | body.training.model_dump(exclude_none=True)
            | {"validation_fraction": body.validation_fraction, "seed": body.seed},
            budget=Budget(**body.budget.model_dump()),
        ),
        alphabet=alphabet,
        coverage=body.coverage,
        start_from=start.reference if start else None,
        masks=masks,
        masked_by_default=masked_by_default,
    )
    if request.masks and alphabet == "bytes":
        raise InvalidInput(
            "masks put characters of their own into the text, and the alphabet bytes has none to spare;"
            " leave them out, or train on characters",
            code="masks_of_bytes",
            param="masks",
        )
    request = request.model_copy(update={"training": resolve_training(request.network, request.training)})
    _check_length(corpus, alphabet, body.validation_fraction)
    if body.mix and second:
        request = request.model_copy(update={"mix": _mix(body.mix, request, second, teacher)})
    distinct = corpus.distinct_characters if alphabet == "characters" else 256
    known = len(start.characters) if start and alphabet == "characters" else 0
    check_memory(request.network, request.training, distinct + known + 1, memory_limit_bytes)
    return request


def _masks(
    body: JobCreate, corpus: Corpus, alphabet: Alphabet, *, start: Card | None, teacher: Card | None
) -> tuple[tuple[str, ...], str | None]:
    """Return the masks, and if they are the corpus's suggestion a sentence that says so."""
    if body.masks is not None:
        return Masks(body.masks).masks, None
    if known := start or teacher:
        return known.masks, None
    sample = corpus.log_sample
    if alphabet == "bytes" or not sample:
        return (), None
    left = sample["kept"] * corpus.characters * min(1.0, body.validation_fraction * 10)
    if left < 2 * MINIMUM_CHARACTERS:  # masked, it might be too short to be trained on
        return (), None
    masks = Masks(corpus.suggested_masks).masks
    counts = ", ".join(f"{name} ({sample['lines'][name]:,})" for name in masks)
    placeholders = " ".join(NAMED[name][0] for name in masks)
    return masks, (
        f"masked by default: {counts} of {sample['sampled_lines']:,} sampled lines, for this is a log and"
        f" these values change from line to line; completions have {placeholders} in their place. To train on"
        ' the text as it is, pass "masks": []'
    )


def _check_start(body: JobCreate, start: Card) -> None:
    """Refuse what contradicts the model that is started from, field by field."""
    if not architecture(start.network.architecture).loads_weights:
        raise InvalidInput(
            f"start_from: {start.reference} is a {start.network.architecture}, which cannot be started from",
            code="contradicts_start_from",
            param="start_from",
        )
    asked: dict[str, object] = {
        f"network.{field}": getattr(body.network, field)
        for field in type(body.network).model_fields
        if field != "dropout"  # it has no part in the shape
    }
    asked["architecture"] = body.architecture if "architecture" in body.model_fields_set else None
    asked["alphabet"] = body.alphabet
    has = {f"network.{field}": value for field, value in start.network.model_dump().items()}
    has |= {"architecture": start.network.architecture, "alphabet": start.alphabet}
    wrong = [field for field, value in asked.items() if value is not None and value != has[field]]
    if wrong:
        told = ", ".join(f"{field} is {asked[field]} here and {has[field]} there" for field in wrong)
        raise InvalidInput(
            f"a job has the shape of the model it starts from, {start.reference}: {told}; leave these out",
            code="contradicts_start_from",
            param=wrong[0],
        )


def _mix(mix: Mix, request: JobRequest, second: Corpus, teacher: Card | None) -> Mix:
    """Return what is mixed in, by ids and versions. Raises InvalidInput, naming the field."""
    rows = request.training.rows
    if not 0 < round(rows * mix.fraction) < rows:
        raise InvalidInput(
            f"mix.fraction: {mix.fraction:g} of {rows} rows is {round(rows * mix.fraction)}; each text needs"
            " one at least: take more rows or another fraction",
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
            f"mix.teacher: {teacher.reference} reads {teacher.alphabet} with the masks {list(teacher.masks)},"
            f" and this job {request.alphabet} with {list(request.masks)}; they must be the same",
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
            f"corpus {corpus.id} was uploaded as bytes, and the alphabet would be characters; upload it as"
            " UTF-8, or take the alphabet bytes",
            code="contradicts_corpus",
            param="start_from" if start else "alphabet",
        )
    return alphabet


def _defaults(body: JobCreate) -> tuple[NetworkConfig, TrainingConfig]:
    """Return what the changes are made to: the preset, or the one recipe of an architecture without any."""
    if body.architecture == DEFAULT:
        return PRESETS[body.preset]
    if "preset" in body.model_fields_set:
        raise InvalidInput(
            f"preset: presets are of {DEFAULT}; {body.architecture} has one recipe, so leave preset out",
            code="option_not_available",
            param="preset",
        )
    known = architecture(body.architecture)
    return known.network, known.training


def _check_length(corpus: Corpus, alphabet: Alphabet, validation_fraction: float) -> None:
    length = corpus.bytes if alphabet == "bytes" else corpus.characters
    if length < MINIMUM_CHARACTERS:
        raise InvalidInput(
            f"the corpus has {length} characters and training needs at least {MINIMUM_CHARACTERS}",
            code="corpus_too_small",
            param="corpus",
        )
    held_out = round(length * validation_fraction)
    if held_out < MINIMUM_HELD_OUT_CHARACTERS:
        least = MINIMUM_HELD_OUT_CHARACTERS
        raise InvalidInput(
            f"validation_fraction holds {held_out} of {length:,} characters out and at least {least} are"
            f" needed; take {least / length:.3g} or more",
            code="too_little_held_out",
            param="validation_fraction",
        )
