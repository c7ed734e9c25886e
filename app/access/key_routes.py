"""/v1/keys: the API keys of the service, without their secrets. The file of keys is what changes them."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from nextchar.app.access.keys import Key, KeyFile
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Limit, Page, paginate, with_examples
from nextchar.app.http.services import ServicesDep

router = APIRouter(prefix="/v1/keys", tags=["service"])


class KeyBody(BaseModel):
    """What an API key permits."""

    model_config = with_examples(
        {
            "id": "website",
            "object": "api_key",
            "scopes": ["complete"],
            "models": ["names", "sku-*"],
            "limits": {"rate": "600 per 1 minute", "max_streams": "8"},
        }
    )

    id: str = Field(description="Its name in the file of keys.")
    object: Literal["api_key"] = "api_key"
    scopes: list[str]
    models: list[str] = Field(description="Patterns of the models that it permits; empty: all.")
    limits: dict[str, str] = Field(description="Its limits, by their names in the file.")

    @classmethod
    def of(cls, key: Key) -> "KeyBody":
        """Return the description of a key."""
        return cls(id=key.name, scopes=sorted(key.scopes), models=list(key.models), limits=key.limits)


@router.get("", responses=error_responses(422))
@needs("admin")
def list_keys(
    services: ServicesDep, access: AccessDep, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[KeyBody]:
    """List the API keys in the order of the file; none if the service requires no key."""
    access.check_is_unlimited("the keys are those of all models")
    file = services.find(KeyFile)
    page, has_more = paginate(file.keys if file else [], lambda key: key.name, after=after, limit=limit)
    return Page(data=list(map(KeyBody.of, page)), has_more=has_more)
