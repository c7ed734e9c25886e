"""OpenAI's and llama.cpp's protocols, as translations; batches."""

from nextchar.app.completions.prompts import LongPrompts
from nextchar.app.http.services import Services
from nextchar.app.models.engines import Engines
from nextchar.app.openai import batch_routes, completions, files, jobs, llama_cpp, tokenizer
from nextchar.app.openai.batch_control import BatchControl
from nextchar.app.openai.batch_metrics import BatchCollector
from nextchar.app.openai.batch_processing import INTERVAL_S, BatchProcessing
from nextchar.app.openai.batch_retention import delete_due, to_copy, used_corpora
from nextchar.app.openai.batches import Batches
from nextchar.app.openai.configuration import OpenAISettings
from nextchar.app.operations.metrics import Metrics
from nextchar.app.operations.retention import Retention
from nextchar.app.room import Folder, Room
from nextchar.store.background import BackgroundLoop

_FINISH_REQUESTS_S = 3.0


def _open(services: Services) -> None:
    settings = services.settings_of(OpenAISettings)
    batches = services.add(Batches(services.blobs, services.redis))
    services.add(BatchControl(services.blobs, batches))
    services[Metrics].register(BatchCollector(batches))
    retention = services[Retention]
    retention.add(
        "batches", lambda now: delete_due(batches, services.blobs, settings.job_retention_days, now)
    )
    retention.corpus_users.append(
        lambda is_strict: used_corpora(batches, services.blobs, is_strict=is_strict)
    )
    if not settings.batch_processing:
        return
    processing = BatchProcessing(
        batches,
        services.blobs,
        services.corpora,
        services.models,
        services.jobs,
        services[Engines],
        services[LongPrompts],
        spool=settings.data_dir / "spool",
        stopping=services.stopping,
    )
    effect = "the requests of batches are not run"
    loop = BackgroundLoop("batches", processing.run, interval_s=INTERVAL_S, effect=effect)
    processing.on_progress = loop.beat
    services.loops.append(loop)
    services.closes(lambda: loop.stop(_FINISH_REQUESTS_S))  # or what it has taken waits to be taken over


OPENAI = Room(
    "openai",
    _open,
    (
        completions.router,
        llama_cpp.router,
        tokenizer.router,
        files.router,
        jobs.router,
        batch_routes.router,
    ),
    OpenAISettings,
    folders=(
        Folder("openai_jobs", ["jobs"]),
        Folder("openai_joined", ["corpora"]),
        Folder("openai_files", ["corpora"]),
        Folder("batches", ["corpora", "model_cards", "batch_chunks"], choose=to_copy),
        Folder("batch_chunks"),
    ),
    is_strict=False,  # its clients may send query parameters that we do not know
)
