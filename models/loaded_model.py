"""A saved model in memory, as the API, Python programs and batches load it."""

from dataclasses import dataclass
from typing import Self

from nextchar.models.anomaly.scorer import Scorer
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.line_index import LineIndex
from nextchar.models.runtime.suggestions import Suggester
from nextchar.models.saved_model import SavedModel, model_in_training
from nextchar.models.text import line_file, mask_values
from nextchar.models.text.line_file import Lines
from nextchar.models.text.mask_values import MaskValues
from nextchar.models.text.masks import Masks, ModelMasks
from nextchar.models.text.vocabulary import Vocabulary


@dataclass(eq=False)
class LoadedModel:
    """What predicts (`engine`), masks prompts and lines, scores lines, and suggests. Thread-safe."""

    saved: SavedModel
    engine: Engine
    masks: ModelMasks
    _scorer: Scorer
    suggester: Suggester

    @classmethod
    def load(
        cls, saved: SavedModel, *, threads: int = 1, cache_bytes: int = 64 << 20, max_waiting: int = 256
    ) -> Self:
        """Load a saved model; the options are those of `Engine`. Raises Unavailable: a file is damaged."""
        engine = Engine(saved, threads=threads, cache_bytes=cache_bytes, max_waiting=max_waiting)
        masks = masks_of(saved)
        return cls(saved, engine, masks, Scorer.load(saved, engine, masks), suggester_of(saved, masks))

    def __post_init__(self) -> None:
        self.reference: str = self.saved.card.reference  # name@version
        self.vocabulary: Vocabulary = self.saved.vocabulary
        self.has_masks = bool(self.masks)
        self.is_early = self.saved.card.is_early  # it completes while its job still trains the network

    @property
    def scorer(self) -> Scorer:
        """What scores lines. Raises NotFound: the model is early (code `model_in_training`)."""
        if self.is_early:
            raise model_in_training(self.reference)
        return self._scorer


def suggester_of(saved: SavedModel, masks: ModelMasks) -> Suggester:
    """Return what suggests with a saved model that has these masks. Raises Unavailable: a file is damaged."""
    card = saved.card
    lines = LineIndex(Lines.load(saved.mapped(line_file.FILE))) if line_file.FILE in card.files else None
    return Suggester(saved.vocabulary, masks, lines, card.kind == "records", card.reference)


def masks_of(saved: SavedModel) -> ModelMasks:
    """Return the masks of a saved model. Raises Unavailable: a file is damaged."""
    masks = Masks(saved.card.masks)
    if mask_values.FILE not in saved.card.files:
        return ModelMasks(masks)
    values = MaskValues.load(saved.file(mask_values.FILE))
    return ModelMasks(masks, is_masked=values.is_well_formed, short_numbers=values.has_short)
