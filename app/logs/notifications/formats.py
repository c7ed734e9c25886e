"""The bodies that Slack and PagerDuty expect, made of the messages that webhooks get."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

TargetFormat = Literal["standard", "slack", "pagerduty"]

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"

_MAX_SUMMARY = 1000  # characters; PagerDuty takes 1,024

Message = Mapping[str, Any]


def formatted(message: str, target_format: TargetFormat, *, routing_key: str | None = None) -> str:
    """Return the body for a message of a webhook, which has `type`, `timestamp` and `data`."""
    if target_format == "standard":
        return message
    write: Callable[..., Mapping[str, Any]] = _slack if target_format == "slack" else _pagerduty
    return json.dumps(write(json.loads(message), routing_key), ensure_ascii=False)


def _summary(message: Message) -> str:
    kind, data = message["type"], message["data"]
    match kind:
        case "alert.firing":
            text = f"{data['severity']}: {data['title']} ({data['count']} lines of {data['model']})"
        case "alert.resolved":
            text = f"resolved: {data.get('template', data['id'])} of {data.get('model', '?')}"
        case "test":
            text = "A test of nextchar"
        case _:
            text = f"{kind}: {data.get('model') or data.get('name') or data.get('id')}"
    return text[:_MAX_SUMMARY]


def _slack(message: Message, _: str | None) -> dict[str, Any]:
    """Return the body of an incoming webhook, of which `&`, `<` and `>` are control characters."""
    text = _summary(message).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    url = message["data"].get("generatorURL")
    return {"text": f"{text} <{url}|Open>" if url else text}


def _pagerduty(message: Message, routing_key: str | None) -> dict[str, Any]:
    """Return an event of the Events API v2: an alert triggers an incident and resolves it."""
    data = message["data"]
    url = data.get("generatorURL")
    return {
        "routing_key": routing_key,
        "event_action": "resolve" if message["type"] == "alert.resolved" else "trigger",
        "dedup_key": data.get("id", message["type"]),
        "payload": {
            "summary": _summary(message),
            "source": ", ".join(data.get("sources", [])) or data.get("model") or "nextchar",
            "severity": data.get("severity", "info"),
            "timestamp": message["timestamp"],
            "component": data.get("model"),
        },
        "links": [{"href": url, "text": "Alert"}] if url else [],
    }
