"""What the caller of a request can access, as a dependency of routes."""

from typing import Annotated

from fastapi import Depends, Request
from pydantic import Field

from nextchar.app.access.permissions import Access
from nextchar.app.http.services import Services


def access_of(services: Services, request: Request) -> Access:
    """Return what the caller of a request can access."""
    key = getattr(request.state, "key", None)
    return Access(key, services.models, services.jobs, services.corpora)


# async although nothing is awaited: FastAPI runs plain functions in a worker thread.
async def _access(request: Request) -> Access:
    return access_of(request.state.services, request)


AccessDep = Annotated[Access, Depends(_access)]

ModelReference = Annotated[
    str,
    Field(max_length=128, description="`name` or `name@version`. Default in a query: the newest model."),
]
"""A parameter of the path in routes whose path has it, else of the query."""
