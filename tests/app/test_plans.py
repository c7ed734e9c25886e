import annotated_types
import pytest
from pydantic import BaseModel

from app.schemas.jobs import NetworkOverride, TrainingOverride
from models.config import NetworkConfig, TrainingConfig


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
        assert limits(override, name) == limits(config, name) != []
