"""How a client of another protocol names the model: in the query or in the path."""

from typing import Annotated

from fastapi import Path, Query

ModelInQuery = Annotated[
    str, Query(max_length=128, description="`name` or `name@version`; default: the newest model.")
]
ModelInPath = Annotated[str, Path(max_length=128, description="`name` or `name@version`.")]
