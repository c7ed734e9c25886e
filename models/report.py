"""The training report: what a finished job measured. Stored as report.json, and in short form in the card.

All fields are optional for readers: reports of older versions lack some, and a part that failed is missing.
docs/reference/report.md explains the figures.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from nextchar.models.config import Preset, PresetOption
from nextchar.models.text.kind_detection import TextKind

Verdict = Literal["novel", "repetitive", "copies"]

_READ_ALL = ConfigDict(extra="allow", use_attribute_docstrings=True)  # fields of other versions


class Evaluation(TypedDict, total=False):
    """One evaluation during training: a point of the curves."""

    step: Annotated[int, Field(description="Optimizer steps so far.")]
    epoch: Annotated[float, Field(description="Passes over the training text so far.")]
    train_bits_per_character: float | None
    """Mean training loss since the evaluation before; null at the first."""
    validation_bits_per_character: float
    """Loss of the network on the beginning of the held-out text."""
    learning_rate: Annotated[float, Field(description="Learning rate of the next step.")]
    characters_per_second: float | None
    """Training speed, a moving average; null at the first."""
    elapsed_seconds: Annotated[float, Field(description="Seconds since the first step.")]


class CharacterCounts(TypedDict, total=False):
    """The sizes of the parts of the text, in characters."""

    train: Annotated[int, Field(description="Of the training text.")]
    validation: Annotated[int, Field(description="Of the held-out text.")]
    judged: Annotated[int, Field(description="Of the held-out text that the final figure is measured on.")]


class UnknownCharacters(TypedDict, total=False):
    """Characters outside of the vocabulary, because of `coverage` or only in the held-out text."""

    characters: Annotated[int, Field(description="Distinct characters of the training text.")]
    train_share: Annotated[float, Field(description="Fraction of the training text.")]
    validation_share: Annotated[float, Field(description="Fraction of the held-out text.")]


class Experts(TypedDict, total=False):
    """Bits per character of the held-out text, by each expert and by their mixture."""

    mixture: Annotated[float, Field(description="By all experts together.")]
    lstm: Annotated[float, Field(description="By the network alone.")]
    early: Annotated[float, Field(description="By the early model, before the network was trained.")]
    ngram: Annotated[float, Field(description="By the n-grams alone.")]
    without_matches: float
    """By network and n-grams together, of models of older versions."""
    without_adaptation: float
    """By all experts together, without adapting to what is read."""


class Int8Measurement(TypedDict, total=False):
    """The cost of int8 weights."""

    validation_bits_per_character: Annotated[float, Field(description="On held-out text, with int8 weights.")]
    lost_nats: Annotated[float, Field(description="Increase over float32, in nats (not bits) per character.")]
    kept: Annotated[bool, Field(description="Whether the model has int8 weights.")]


class Numerics(TypedDict, total=False):
    """What decides the last bits of the weights, from one step on.

    Training again with the same gives the same bits, on a CPU and with a budget in steps or epochs.
    """

    from_step: Annotated[int, Field(description="Optimizer steps before it.")]
    product: str
    """Number format of matrix products: `float32`, `bfloat16` or `float16`."""
    variant: str
    """The kernel that computed them; or `library-` and the processor's instruction set: TensorFlow or NumPy;
    or the name of a GPU."""
    replicas: Annotated[int, Field(description="Replicas of the network that the rows were split over.")]
    tensorflow: str | None
    """The version of TensorFlow; null: it did not take part."""
    nextchar: Annotated[str, Field(description="The version of nextchar.")]


class Cost(TypedDict, total=False):
    """Time and memory of the training."""

    seconds: Annotated[float, Field(description="As `training_seconds`.")]
    characters: Annotated[int, Field(description="As `characters_trained`.")]
    characters_per_second: Annotated[int, Field(description="The quotient of both.")]
    peak_memory_bytes: Annotated[int, Field(description="Peak memory of the process.")]
    cores: Annotated[int, Field(description="CPU cores for training.")]


class HeldOutLines(TypedDict, total=False):
    """Held-out records that the training text has too."""

    compared: Annotated[int, Field(description="The number of held-out lines compared with training lines.")]
    repeated_share: Annotated[float, Field(description="The fraction of them that are also training lines.")]


class Sample(TypedDict, total=False):
    """A text that the network wrote at an evaluation, at temperature 1 after the training text."""

    step: Annotated[int, Field(description="The step of the evaluation.")]
    epoch: Annotated[float, Field(description="The epoch of the evaluation.")]
    text: Annotated[str, Field(description="The text.")]


class BaselineCharacters(TypedDict, total=False):
    """How much text the baselines read, in characters."""

    ngram: Annotated[int, Field(description="Counted by the n-gram models.")]
    compressed: Annotated[int, Field(description="Read by gzip, xz and PPMd before the held-out text.")]
    judged: Annotated[int, Field(description="Of the held-out text that they are measured on.")]


class Passage(TypedDict, total=False):
    """A passage that also occurs in the training text."""

    length: Annotated[int, Field(description="In characters.")]
    offset: Annotated[int, Field(description="In the training text, in characters.")]
    text: Annotated[str, Field(description="The passage.")]


class CopyCounts(TypedDict, total=False):
    """How much of a text occurs in the training text."""

    characters: Annotated[int, Field(description="Length of the text.")]
    novel: Annotated[
        dict[str, float], Field(description="By n, the fraction of n-grams not in the training text.")
    ]
    copied: Annotated[
        float, Field(description="Fraction of characters in passages of `copied_from_characters` or more.")
    ]
    longest: Annotated[int, Field(description="Length of the longest copied passage.")]
    passages: Annotated[list[Passage], Field(description="The longest copied passages; not in the card.")]


class GeneratedText(CopyCounts, total=False):
    """A text written by the model, and how much of it is copied."""

    temperature: Annotated[float, Field(description="The sampling temperature.")]
    text: Annotated[str, Field(description="The beginning of the text; not in the card.")]
    longest_passage: str
    """The beginning of the longest copied passage; only in the card."""


class RepeatedContinuations(TypedDict, total=False):
    """Fractions of places in a text whose continuation the model repeats exactly at temperature 0."""

    training: Annotated[float, Field(description="Of places in the training text.")]
    held_out: Annotated[float, Field(description="Of places in the held-out text.")]
    lead: Annotated[int, Field(description="Characters that the model reads before such a place.")]
    continuation: Annotated[int, Field(description="Characters to repeat.")]


class WithheldLines(TypedDict, total=False):
    """How often the model completes lines that may not be suggested, from their first halves.

    They occur fewer times than `minimum_count`, or come from fewer sources than `minimum_sources`.
    """

    lines: Annotated[int, Field(description="How many lines of the corpus are withheld.")]
    probed: Annotated[int, Field(description="Of these, how many the model was given the first half of.")]
    completed: Annotated[float, Field(description="The fraction that it completes exactly at temperature 0.")]
    suggested: float
    """The fraction that it completes and would suggest: 0 is right."""


class Memorization(TypedDict, total=False):
    """How much of what the model writes is copied from the training text."""

    verdict: Annotated[Verdict, Field(description="The summary; docs/reference/report.md defines it.")]
    copied_from_characters: Annotated[int, Field(description="The shortest passage that counts as copied.")]
    generated: Annotated[list[GeneratedText], Field(description="Texts of the model, by temperature.")]
    held_out: Annotated[CopyCounts, Field(description="The same for held-out text, as a reference.")]
    repeated: RepeatedContinuations
    withheld: WithheldLines
    searched_characters: Annotated[int, Field(description="Of the training text, from its beginning.")]
    training_characters: Annotated[int, Field(description="Length of the training text.")]
    prompt_characters: Annotated[int, Field(description="Of held-out text before each generated text.")]


class Report(TypedDict, total=False):
    """The training report of a model."""

    __pydantic_config__ = _READ_ALL  # type: ignore[misc]

    object: Annotated[Literal["report"], Field(description="The type.")]
    model: Annotated[str, Field(description="`name@version`; added by the API.")]
    name: Annotated[str, Field(description="The name of the model when it was trained.")]
    created_at: Annotated[int, Field(description="Unix seconds, UTC.")]
    job: Annotated[str | None, Field(description="The id of the job.")]
    corpus: Annotated[str | None, Field(description="The id of the corpus.")]
    preset: PresetOption | None
    """The preset of the job; null: the architecture has none."""
    chosen_preset: Annotated[Preset | None, Field(description="What preset `auto` chose.")]
    network: Annotated[dict[str, Any], Field(description="The network's configuration.")]
    training: Annotated[dict[str, Any], Field(description="The training configuration.")]
    alphabet: Annotated[Literal["characters", "bytes"], Field(description="What a character is.")]
    kind: Annotated[TextKind | None, Field(description="What the text is; null: not known.")]
    started_from: Annotated[str | None, Field(description="The model that it was trained from.")]
    masks: Annotated[list[str], Field(description="The masks of its text.")]
    mix: Annotated[dict[str, Any] | None, Field(description="The second text of the batches.")]
    parameters: Annotated[int, Field(description="Number of weights.")]

    validation_bits_per_character: float
    """Mean -log2 p of the second half of the held-out text, which had no part in training, by what the model
    predicts with."""
    experts: Experts
    mixture_weights: Literal["learned", "default"]
    """Whether the weights of the experts were learned on held-out text."""
    train_bits_per_character: float | None
    """Training loss before the best evaluation."""
    characters: CharacterCounts
    unknown: UnknownCharacters
    stopped: str | None
    """The request that ended training before its budget did; null: none."""
    ended_early: str | None
    """Why training ended early by itself, as a sentence; null: it did not."""
    rows: Annotated[int, Field(description="Rows of the batches (B).")]
    window: Annotated[int, Field(description="Characters of a window (T).")]
    dropout: Annotated[float, Field(description="Fraction of the LSTMs' outputs that training dropped.")]
    precision: Annotated[str, Field(description="Of matrix products in training: `mixed` or `float32`.")]
    bfloat16_speedup: float | None
    """Measured speed of bfloat16 relative to float32; null: not measured."""
    numerics: list[Numerics]
    """What decides the last bits; one more after each resume that changed it."""
    steps: Annotated[int, Field(description="Optimizer steps.")]
    epochs: Annotated[float, Field(description="Passes over the training text.")]
    best_step: Annotated[int, Field(description="The step of the best evaluation, whose weights are kept.")]
    validation_turned_at_step: int | None
    """`best_step`, if the network overfitted after it."""
    validation_turned_at_epoch: Annotated[float | None, Field(description="The epoch of that step.")]
    bits_lost_after_best: float
    """Held-out bits per character of the last evaluation minus the best."""
    characters_trained: Annotated[int, Field(description="Characters read in training.")]
    training_seconds: Annotated[float, Field(description="From the first step, with evaluations.")]
    job_seconds: Annotated[float, Field(description="Of the whole attempt; only in the card.")]
    peak_memory_bytes: Annotated[int, Field(description="Peak memory of the process.")]
    curve: Annotated[list[Evaluation], Field(description="The evaluations during training.")]
    int8: Int8Measurement | None

    cost: Cost
    samples: Annotated[list[Sample], Field(description="Samples at the evaluations; not in the card.")]
    baselines: Annotated[dict[str, float], Field(description="Bits per character of simple predictors.")]
    ngram_order: Annotated[int, Field(description="The order of the best n-gram model.")]
    ngram_orders: Annotated[list[float], Field(description="Bits per character of the orders from 1.")]
    baseline_characters: BaselineCharacters
    held_out_lines: Annotated[HeldOutLines, Field(description="Held-out lines, if the kind is `records`.")]
    memorization: Memorization
    parts_seconds: Annotated[dict[str, float], Field(description="Duration of each part of the report.")]
    report_seconds: Annotated[float, Field(description="Duration of the report.")]
    problems: Annotated[list[str], Field(description="What is wrong with the model or the report.")]
