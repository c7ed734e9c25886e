"""/v1/architectures: the networks that a job can name, and what each starts from."""

from fastapi import APIRouter

from app.http.errors import error_responses
from app.schemas.architectures import ArchitectureBody, PresetBody, Recipe
from app.schemas.lists import Page
from models.architectures import DEFAULT, NAMES, architecture
from models.config import PRESETS, ArchitectureName, TrainingConfig

router = APIRouter(prefix="/v1/architectures", tags=["jobs"])


# async, though nothing is awaited: nothing here blocks, and a plain function would be given a thread.
@router.get("", responses=error_responses())
async def list_architectures() -> Page[ArchitectureBody]:
    """List all architectures, the default first, then in the order of the lecture notes."""
    return Page(data=[_body(name) for name in NAMES], has_more=False)


def _body(name: ArchitectureName) -> ArchitectureBody:
    known = architecture(name)
    presets = PRESETS.items() if name == DEFAULT else ()
    return ArchitectureBody(
        id=name,
        description=known.description,
        network=known.network,
        training=_recipe(known.training),
        network_options=list(known.network_options),
        training_options=list(known.training_options),
        presets=[
            PresetBody(name=preset, network=network, training=_recipe(training))
            for preset, (network, training) in presets
        ],
        notes_train_nats=known.notes_nats,
        notes_measure=known.notes_measure,
    )


def _recipe(training: TrainingConfig) -> Recipe:
    return Recipe(**training.model_dump(include=set(Recipe.model_fields)))
