"""The shapes of the audit trail."""

from pydantic import BaseModel, Field

from nextchar.app.schemas.base import with_examples


class AuditEntryBody(BaseModel):
    """One call that changed something or downloaded something, and succeeded."""

    model_config = with_examples(
        {
            "id": "audit_019ac5f2b303f6a1c2d4e5",
            "at": 1795563611.2,
            "key": "laptop",
            "address": "127.0.0.1",
            "action": "rename_model",
            "about": "/v1/models/nietzsche@2",
            "to": "/v1/models/philosopher@1",
            "status": 200,
            "request_id": "4f2a9c01d3e5b677",
        },
        from_attributes=True,
    )

    id: str
    at: float = Field(description="Unix seconds.")
    key: str | None = Field(description="The name of the API key; null without keys.")
    address: str = Field(description="IP address of the client, or of the proxy in front of the service.")
    action: str = Field(description="The operation's name, as `operationId` in /openapi.json.")
    about: str = Field(description="What it was about, or what it made, as a path.")
    to: str | None = Field(description="What it became, such as a renamed model.")
    status: int = Field(description="The status of the response.")
    request_id: str = Field(description="`X-Request-Id` of the response, which log records have, too.")
