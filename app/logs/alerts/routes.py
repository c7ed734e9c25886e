"""/v1/models/{model}/alerts and /suppressions: groups of flagged lines, and the decisions on them."""

from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from redis.exceptions import RedisError

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Limit, Page, paginate
from nextchar.app.http.services import ServicesDep
from nextchar.app.logs.alerts.alerts import Alert, Alerts, AlertState, covered_values
from nextchar.app.logs.alerts.decisions import Suppression
from nextchar.app.logs.alerts.schemas import (
    AlertBody,
    AlertOverview,
    AlertPage,
    AlertsExport,
    AroundBody,
    CoverageBody,
    LabelAlert,
    SuppressAlert,
    SuppressionBody,
    SuppressionCreate,
    alert_body,
    coverage_body,
    export_csv,
    export_json,
    suppression_body,
)
from nextchar.app.scoring.scored_lines import ScoredLines
from nextchar.models.anomaly.alerts import SEVERITIES, Label, Severity

_MAX_OVERVIEW = 50

_CSV: dict[int | str, Any] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}, "example": "id,model,version\n"}}}
}

_ERRORS = error_responses(404, 422, 503)
_WRITING_ERRORS = error_responses(400, 404, 409, 413, 415, 422, 503, 507)

router = APIRouter(prefix="/v1/models", tags=["alerts"], route_class=DocumentRoute)


overview_router = APIRouter(prefix="/v1/alerts", tags=["alerts"], route_class=DocumentRoute)


@overview_router.get("", responses=error_responses(422, 503))
@needs("read", "train")
def overview(
    services: ServicesDep, access: AccessDep, limit: Annotated[int, Query(ge=0, le=_MAX_OVERVIEW)] = 20
) -> AlertOverview:
    """Get the open alerts of all models: how many, and the most severe ones."""
    names = sorted({card.name for card in access.list_models()[0] if access.allows(card.name)})
    alerts = [one for name in names for one in services[Alerts].all(name) if one.state == "open"]
    alerts.sort(key=lambda one: (-SEVERITIES.index(one.severity), one.estimated_p))
    scored = services[ScoredLines].last_hour()
    return AlertOverview(
        open={severity: sum(one.severity == severity for one in alerts) for severity in SEVERITIES},
        data=list(map(alert_body, alerts[:limit])),
        scored_last_hour=sum(scored.get(name, 0) for name in names),
    )


@router.get("/{model}/alerts", responses=_ERRORS)
@needs("read", "train")
def list_alerts(
    services: ServicesDep,
    access: AccessDep,
    model: str,
    state: AlertState | None = None,
    severity: Annotated[Severity | None, Query(description="Alerts that are at least as severe.")] = None,
    label: Annotated[Label | Literal["none"] | None, Query(description="`none`: not labeled.")] = None,
    since: Annotated[
        float | None, Query(description="Alerts with a line at or after this time, in Unix seconds.")
    ] = None,
    until: Annotated[float | None, Query(description="Alerts with a line at or before this time.")] = None,
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> AlertPage:
    """List a model's alerts, most recently seen first."""
    name = access.model_name(model)
    found = [
        alert
        for alert in services[Alerts].all(name)
        if (state is None or alert.state == state)
        and (severity is None or SEVERITIES.index(alert.severity) >= SEVERITIES.index(severity))
        and (label is None or (alert.label or "none") == label)
        and (since is None or alert.figures.last_seen >= since)
        and (until is None or alert.figures.first_seen <= until)
    ]
    page, has_more = paginate(found, lambda alert: alert.id, after=after, limit=limit)
    return AlertPage(
        data=list(map(alert_body, page)), has_more=has_more, evicted=services[Alerts].evictions().get(name, 0)
    )


@router.get("/{model}/alerts/export", response_model=AlertsExport, responses=_ERRORS | _CSV)
@needs("read", "train")
def export_alerts(
    request: Request,
    services: ServicesDep,
    access: AccessDep,
    model: str,
    format: Literal["json", "csv"] = "json",  # noqa: A002
) -> Response:
    """Get all alerts with their acknowledgements and labels; the JSON format also has the suppressions."""
    name = access.model_name(model)
    set_audit_details(request, about=f"/v1/models/{name}/alerts/export")
    alerts = services[Alerts].all(name)
    if format == "csv":
        content, media_type = export_csv(alerts), "text/csv; charset=utf-8"
    else:
        suppressions = services[Alerts].decisions.suppressions(name)
        content, media_type = export_json(name, alerts, suppressions), "application/json"
    disposition = f'attachment; filename="{name}-alerts.{format}"'
    return Response(content, media_type=media_type, headers={"Content-Disposition": disposition})


@router.get("/{model}/alerts/{alert}", responses=_ERRORS)
@needs("read", "train")
def get_alert(services: ServicesDep, access: AccessDep, model: str, alert: str) -> AlertBody:
    """Get an alert, with the events around its newest one."""
    name = access.model_name(model)
    body = alert_body(services[Alerts].get(name, alert))
    around = services[Alerts].around(name, alert)
    return body.model_copy(update={"around": around and AroundBody(**around)})


@router.post("/{model}/alerts/{alert}/acknowledge", responses=_WRITING_ERRORS)
@needs("train", body=SMALL_JSON)
def acknowledge_alert(services: ServicesDep, access: AccessDep, model: str, alert: str) -> AlertBody:
    """Acknowledge an alert: mark it as being handled."""
    name = access.model_name(model)
    return alert_body(services[Alerts].acknowledge(name, alert, by=access.key_name))


@router.get("/{model}/alerts/{alert}/preview", responses=_ERRORS)
@needs("read", "train")
def preview_alert(
    services: ServicesDep,
    access: AccessDep,
    model: str,
    alert: str,
    values: Annotated[list[str] | None, Query(max_length=50, description="As of a label.")] = None,
    all_values: Annotated[bool, Query(description="As of a label.")] = False,
) -> CoverageBody:
    """See which lines a label or a suppression of an alert would cover, and which not."""
    found = services[Alerts].get(access.model_name(model), alert)
    return coverage_body(found, covered_values(found, values, all_values=all_values))


@router.post("/{model}/alerts/{alert}/label", responses=_WRITING_ERRORS)
@needs("train", body=SMALL_JSON)
def label_alert(
    services: ServicesDep, access: AccessDep, model: str, alert: str, body: LabelAlert
) -> AlertBody:
    """Label an alert as normal or as an incident. `normal` lowers the score of what it covers from now on."""
    name = access.model_name(model)
    return alert_body(services[Alerts].label(name, alert, by=access.key_name, **dict(body)))


@router.post("/{model}/alerts/{alert}/suppress", status_code=201, responses=_WRITING_ERRORS)
@needs("train", body=SMALL_JSON)
def suppress_alert(
    request: Request, services: ServicesDep, access: AccessDep, model: str, alert: str, body: SuppressAlert
) -> SuppressionBody:
    """Suppress what the preview covers of an alert until a time: it is only counted."""
    name = access.model_name(model)
    made = services[Alerts].suppress(name, alert, by=access.key_name, **dict(body))
    set_audit_details(request, about=f"/v1/models/{name}/suppressions/{made.id}")
    return suppression_body(made)


@router.get("/{model}/suppressions", responses=_ERRORS)
@needs("read", "train")
def list_suppressions(
    services: ServicesDep, access: AccessDep, model: str, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[SuppressionBody]:
    """List a model's suppressions, newest first, with those that have ended."""
    found = services[Alerts].decisions.suppressions(access.model_name(model))
    page, has_more = paginate(found, lambda suppression: suppression.id, after=after, limit=limit)
    return Page(data=list(map(suppression_body, page)), has_more=has_more)


@router.post("/{model}/suppressions", status_code=201, responses=_WRITING_ERRORS)
@needs("train", body=SMALL_JSON)
def create_suppression(
    request: Request, services: ServicesDep, access: AccessDep, model: str, body: SuppressionCreate
) -> SuppressionBody:
    """Suppress the alerts that match patterns, also future ones, until a time."""
    name = access.model_name(model)
    made = Suppression(model=name, created_by=access.key_name, **dict(body))
    services[Alerts].decisions.suppress(made)
    set_audit_details(request, about=f"/v1/models/{name}/suppressions/{made.id}")
    alerts: list[Alert] = []
    with suppress(RedisError):  # it is made, with or without a warning
        alerts = services[Alerts].all(name)
    return suppression_body(made, alerts)


@router.delete("/{model}/suppressions/{suppression}", status_code=204, responses=_ERRORS)
@needs("train")
def delete_suppression(services: ServicesDep, access: AccessDep, model: str, suppression: str) -> None:
    """End a suppression."""
    services[Alerts].decisions.delete_suppression(access.model_name(model), suppression)
