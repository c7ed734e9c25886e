"""Training jobs: creation, control, events, and the reconciler."""

from nextchar.app.http.services import Services
from nextchar.app.jobs import routes
from nextchar.app.jobs.bodies import JobBodies, JobFeeds
from nextchar.app.jobs.control import JobControl
from nextchar.app.jobs.reconcile import Reconciler
from nextchar.app.jobs.training_metrics import TrainingCollector
from nextchar.app.operations.metrics import Metrics
from nextchar.app.room import Folder, Room
from nextchar.store.background import BackgroundLoop

RECONCILE_S = 5.0


def _open(services: Services) -> None:
    jobs, live, queue = services.jobs, services.live, services.queue
    services.add(JobControl(services.blobs, jobs, live, queue, services.redis))
    services.add(JobBodies(live, queue))
    services.add(JobFeeds.of(services))
    services[Metrics].register(TrainingCollector(jobs, live, queue))
    services.loops.append(
        BackgroundLoop(
            "reconciler",
            Reconciler(jobs, live, queue).run,
            interval_s=RECONCILE_S,
            effect="jobs whose worker or message was lost are not queued again",
        )
    )


JOBS = Room(
    "jobs",
    _open,
    (routes.router,),
    folders=(
        Folder("idempotency", ["jobs"]),
        Folder("jobs", ["corpora", "model_cards", "events", "checkpoints"]),
        Folder("events"),
        Folder("checkpoints", is_replaced_often=True),  # by running jobs
    ),
)
