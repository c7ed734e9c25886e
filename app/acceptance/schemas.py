"""Events of suggestions as clients send them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from nextchar.app.http.schemas import RequestBody, with_examples

MAX_EVENTS = 1_000
"""Events in one request."""

MAX_TEXT_CHARACTERS = 10_000
"""A longer text is not kept."""

EventType = Literal["shown", "accepted", "typed", "dismissed", "kept"]

_TABBY_TYPES: dict[object, EventType] = {"view": "shown", "select": "accepted", "dismiss": "dismissed"}

_TABBY_FIELDS = ("completion_id", "choice_index", "view_id", "select_kind", "elapsed")

_Id = Annotated[str, Field(min_length=1, max_length=128)]
_Characters = Annotated[int, Field(ge=0, le=1_000_000)]

EXAMPLE_EVENT: dict[str, Any] = {
    "id": "8f14e45f-1", "type": "accepted", "suggestion_id": "sug_4f2a9c01d3e5b677.0", "model": "cities@3",
    "characters": 3, "typed": 3, "client": "nextchar-js/1.0",
}  # fmt: skip


class EventCreate(RequestBody):
    """What became of one suggestion. Tabby's events are accepted as well, in its own field names."""

    id: _Id
    """Unique per event, made by the client: an event that is sent again counts once."""
    type: EventType
    """`shown`; `accepted`; `typed`: something else was typed; `dismissed`; `kept`: what was accepted is still
    there a minute later. Tabby's `view`, `select` and `dismiss` are `shown`, `accepted` and `dismissed`."""
    suggestion_id: _Id = Field(description="The suggestion's `id`. Repeated events of one type count once.")
    model: str | None = Field(None, min_length=1, max_length=128)
    """The `model` of the response that had the suggestion; null: the default model."""
    characters: _Characters | None = None
    """Of `accepted`: how many characters of the suggestion were inserted so far. Of `typed`: how many were
    typed instead."""
    typed: _Characters | None = None
    """How many characters of the field were typed before the suggestion was shown."""
    latency_ms: float | None = Field(None, ge=0, le=600_000, allow_inf_nan=False)
    """Milliseconds from the key to the suggestion."""
    client: str | None = Field(None, pattern=r"^[ -~]{1,64}$")
    """The program that showed it, with its version: printable ASCII characters."""
    client_id: str | None = Field(None, max_length=256)
    """Tells people or devices apart; only its hash is stored."""
    text: str | None = None
    """Of `accepted` and `typed`: the whole text of the field then. It is discarded unless the service's
    settings say that the model learns from use, or that its accepted lines are counted; and if it is longer
    than 10,000 characters."""

    @model_validator(mode="before")
    @classmethod
    def _read_tabby(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "completion_id" not in value:
            return value
        kind, completion, index = value.get("type"), value["completion_id"], value.get("choice_index", 0)
        named = {
            "id": f"{kind} {value.get('view_id') or completion} {index}"[:128],
            "type": _TABBY_TYPES.get(kind, kind) if isinstance(kind, str) else kind,
            "suggestion_id": f"{completion}.{index}",
        }
        return {name: one for name, one in value.items() if name not in _TABBY_FIELDS} | named


class EventsCreate(RequestBody):
    """Events of suggestions; one event alone, as Tabby's clients send it, is accepted as well."""

    model_config = with_examples({"events": [EXAMPLE_EVENT]})

    events: list[EventCreate] = Field(min_length=1, max_length=MAX_EVENTS)

    @model_validator(mode="before")
    @classmethod
    def _read_one(cls, value: Any) -> Any:
        return value if not isinstance(value, dict) or "events" in value else {"events": [value]}


class EventsBody(BaseModel):
    """What was counted; the events are stored when the response is sent."""

    model_config = with_examples({"object": "events", "accepted": 12, "duplicates": 1, "rejected": 0})

    object: Literal["events"] = "events"
    accepted: int = Field(description="Events that are stored.")
    duplicates: int = Field(description="Events whose id was received before, which changed nothing.")
    rejected: int = Field(description="Events of models that do not exist any more.")
