"""/v1/architectures: the network architectures, with their defaults."""

from fastapi import APIRouter

from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.schemas import Page
from nextchar.app.models.architecture_schemas import ArchitectureBody, PresetBody, Recipe
from nextchar.models.architectures import DEFAULT, NAMES, architecture
from nextchar.models.config import PRESETS, ArchitectureName, TrainingConfig

router = APIRouter(prefix="/v1/architectures", tags=["jobs"])


# async although nothing is awaited: FastAPI runs plain functions in a worker thread.
@router.get("", responses=error_responses())
@needs("read")
async def list_architectures() -> Page[ArchitectureBody]:
    """List all architectures: the default, then the others in the order of the lecture notes."""
    return Page(data=[_body(name) for name in NAMES], has_more=False)


def _body(name: ArchitectureName) -> ArchitectureBody:
    defaults = architecture(name)
    presets = PRESETS.items() if name == DEFAULT else ()
    return ArchitectureBody(
        id=name,
        description=defaults.description,
        network=defaults.network,
        training=_recipe(defaults.training),
        network_options=list(defaults.network_options),
        training_options=list(defaults.training_options),
        presets=[
            PresetBody(name=preset, network=network, training=_recipe(training))
            for preset, (network, training) in presets
        ],
        notes_train_nats=defaults.notes_nats,
        notes_measure=defaults.notes_measure,
    )


def _recipe(training: TrainingConfig) -> Recipe:
    return Recipe(**training.model_dump(include=set(Recipe.model_fields)))
