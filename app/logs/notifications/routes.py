"""/v1/notification_targets: where alerts and other events are reported, and messages that did not arrive."""

import time
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter, Depends, Request

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Limit, Page, paginate
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import run_in_thread
from nextchar.app.logs.configuration import LogSettings
from nextchar.app.logs.notifications.notifier import Notifier
from nextchar.app.logs.notifications.outbound import check_target
from nextchar.app.logs.notifications.outbox import Outbox
from nextchar.app.logs.notifications.targets import (
    DeliveryBody,
    NotificationTarget,
    NotificationTargets,
    TargetBody,
    TargetCreate,
    TargetTestBody,
)


async def _check_is_unlimited(access: AccessDep) -> None:
    access.check_is_unlimited("notification targets get the events of all models")


router = APIRouter(
    prefix="/v1/notification_targets",
    tags=["alerts"],
    route_class=DocumentRoute,
    dependencies=[Depends(_check_is_unlimited)],
)

_ERRORS = error_responses(404, 422, 503)


@router.post("", status_code=201, responses=error_responses(400, 413, 415, 422, 503, 507))
@needs("admin", body=SMALL_JSON)
async def create_target(request: Request, services: ServicesDep, body: TargetCreate) -> TargetBody:
    """Create a target to which alerts or other events are reported. Only this response has its secret."""
    await check_target(body.url, allow_private=services.settings_of(LogSettings).allow_private_targets)
    made = await run_in_thread(services[NotificationTargets].create, **body.model_dump())
    set_audit_details(request, about=f"/v1/notification_targets/{made.id}")
    return await run_in_thread(
        _target_body, services, made, secret=made.secret if made.format == "standard" else None
    )


@router.get("", responses=error_responses(422, 503))
@needs("admin")
def list_targets(
    services: ServicesDep, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[TargetBody]:
    """List the notification targets, newest first; those of the service's settings last."""
    targets = services[NotificationTargets].all()
    page, has_more = paginate(targets, lambda target: target.id, after=after, limit=limit)
    return Page(data=[_target_body(services, target) for target in page], has_more=has_more)


@router.get("/{target}", responses=_ERRORS)
@needs("admin")
def get_target(services: ServicesDep, target: str) -> TargetBody:
    """Get a notification target, with its last success and error and the number of waiting messages."""
    return _target_body(services, services[NotificationTargets].get(target))


@router.delete("/{target}", status_code=204, responses=_ERRORS)
@needs("admin")
def delete_target(services: ServicesDep, target: str) -> None:
    """Delete a notification target and the messages that wait for it."""
    services[NotificationTargets].delete(target)
    services[Outbox].forget(target)


@router.post("/{target}/test", responses=_ERRORS)
@needs("admin", body=SMALL_JSON)
async def test_target(services: ServicesDep, target: str) -> TargetTestBody:
    """Send a signed test message now, once, and get the target's response."""
    found = await run_in_thread(services[NotificationTargets].get, target)
    started = time.monotonic()
    outcome = await services[Notifier].send_test(found)
    seconds = round(time.monotonic() - started, 3)
    return TargetTestBody(delivered=outcome.error is None, seconds=seconds, **asdict(outcome))


@router.get("/{target}/deliveries", responses=_ERRORS)
@needs("admin")
def list_deliveries(
    services: ServicesDep,
    target: str,
    status: Literal["waiting", "dead"] = "dead",
    after: After = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[DeliveryBody]:
    """List the messages to a webhook that were given up, newest first, or those that wait."""
    found = services[NotificationTargets].get(target)
    listed = services[Outbox].dead if status == "dead" else services[Outbox].waiting
    page, has_more = paginate(listed(found.id), lambda delivery: delivery.id, after=after, limit=limit)
    return Page(data=[DeliveryBody(status=status, **one.model_dump()) for one in page], has_more=has_more)


def _target_body(services: Services, target: NotificationTarget, *, secret: str | None = None) -> TargetBody:
    return TargetBody(
        **target.model_dump(exclude={"is_trusted", "secret"}),
        is_setting=target.is_trusted,
        secret=secret,
        **services[Outbox].health(target.id).model_dump(),
    )
