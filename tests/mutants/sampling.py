"""A random sample of the faults that `operators.py` derives, from the files where a fault costs most."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.mutants.operators import count_faults, fault
from tests.mutants.runner import Mutant

ROOT = Path(__file__).parents[2]

GROUPS = {
    "store": ("store/*.py",),
    "models/runtime": ("models/runtime/*.py",),
    "models/anomaly": ("models/anomaly/*.py",),
    "training": (
        "worker/attempt.py",
        "worker/checkpoints.py",
        "worker/evaluation.py",
        "worker/evaluator.py",
        "worker/kernel_step.py",
        "worker/pacing.py",
        "worker/rows.py",
        "worker/schedule.py",
        "worker/trainer.py",
        "worker/training.py",
    ),
    "keys and limits": (
        "app/access/keys.py",
        "app/access/permissions.py",
        "app/access/auth.py",
        "app/http/bodies.py",
        "app/http/connections.py",
        "app/http/incoming_body.py",
        "app/http/middleware.py",
        "app/operations/metrics.py",
        "app/http/limits.py",
        "app/http/threads.py",
    ),
}
"""The patterns of the files of each group."""

_TESTS = {
    "app/http/connections.py": (
        "tests/app/http/test_connection_limits.py",
        "tests/app/http/test_connections.py",
    ),
    "app/http/bodies.py": ("tests/app/http/test_bodies.py", "tests/app/http/test_json_size.py"),
    "app/http/threads.py": ("tests/app/http/test_fair_threads.py", "tests/app/http/test_limited_work.py"),
    "app/access/permissions.py": (
        "tests/app/access/test_permissions.py",
        "tests/app/access/test_auth.py",
        "tests/app/access/test_quotas.py",
    ),
    "app/access/auth.py": ("tests/app/access/test_auth.py", "tests/app/access/test_concurrency.py"),
    "app/http/incoming_body.py": (
        "tests/app/http/test_incoming_body.py",
        "tests/app/corpora/test_transfer.py",
    ),
    "app/http/middleware.py": ("tests/app/http/test_origins.py", "tests/app/http/test_errors.py"),
    "app/http/limits.py": (
        "tests/app/access/test_auth.py",
        "tests/app/access/test_concurrency.py",
        "tests/app/access/test_quotas.py",
        "tests/app/http/test_limited_work.py",
    ),
    "models/anomaly/aggregate.py": (
        "tests/models/anomaly/test_aggregate.py",
        "tests/models/anomaly/test_experts.py",
    ),
    "models/anomaly/calibration.py": (
        "tests/models/anomaly/test_bucket.py",
        "tests/models/anomaly/test_calibration.py",
        "tests/models/anomaly/test_experts.py",
    ),
    "models/anomaly/calibration_builder.py": (
        "tests/models/anomaly/test_calibration_builder.py",
        "tests/models/anomaly/test_calibration.py",
        "tests/models/anomaly/test_experts.py",
    ),
    "models/anomaly/flag_rule.py": ("tests/models/anomaly/test_flag_rule.py",),
    "models/anomaly/line_scores.py": (
        "tests/models/anomaly/test_calibrated_scorer.py",
        "tests/app/scoring/test_score_stream.py",
    ),
    "models/anomaly/stream_scorer.py": ("tests/app/scoring/test_score_stream.py",),
    "models/anomaly/noisy_channel.py": ("tests/models/anomaly/test_explanation.py",),
    "models/anomaly/scorer.py": (
        "tests/models/anomaly/test_scorer.py",
        "tests/models/anomaly/test_calibrated_scorer.py",
    ),
    "models/runtime/mixture_learning.py": (
        "tests/models/runtime/test_mixture.py",
        "tests/worker/test_mixture_weights.py",
    ),
    "models/runtime/line_walk.py": (
        "tests/models/runtime/test_engine.py",
        "tests/models/runtime/test_line_walk.py",
    ),
    "models/runtime/int8_file.py": (
        "tests/models/runtime/test_int8_file.py",
        "tests/models/runtime/test_lstm_network.py",
    ),
    "models/runtime/decode.py": (
        "tests/models/runtime/test_decoding.py",
        "tests/models/runtime/test_scheduler.py",
    ),
    "models/runtime/generation.py": (
        "tests/models/runtime/test_generation.py",
        "tests/models/runtime/test_scheduler.py",
        "tests/models/runtime/test_engine.py",
    ),
    "models/runtime/prefill.py": (
        "tests/models/runtime/test_prefill.py",
        "tests/models/runtime/test_scheduler.py",
        "tests/models/runtime/test_engine.py",
    ),
    "models/runtime/scheduler.py": ("tests/models/runtime/test_scheduler.py",),
    "models/runtime/requests.py": (
        "tests/models/runtime/test_requests.py",
        "tests/models/runtime/test_request_validation.py",
        "tests/models/runtime/test_scheduler.py",
        "tests/models/runtime/test_engine.py",
    ),
    "models/runtime/suggestions.py": ("tests/app/suggestions/test_routes.py",),
    "models/runtime/state_cache.py": (
        "tests/models/runtime/test_state_cache.py",
        "tests/models/runtime/test_state_cache_machine.py",
    ),
    "app/logs/alerts/alerts.py": (
        "tests/app/logs/alerts/test_alerts.py",
        "tests/app/logs/alerts/test_decisions.py",
        "tests/app/logs/test_room.py",
    ),
    "app/operations/metrics.py": (
        "tests/app/operations/test_metrics.py",
        "tests/app/operations/test_bounded_read.py",
    ),
    "app/openai/batches.py": ("tests/app/openai/test_batches.py", "tests/app/openai/test_batch_routes.py"),
    "store/corpora.py": (
        "tests/store/test_corpora.py",
        "tests/store/test_corpus.py",
        "tests/store/test_corpus_text.py",
    ),
    "store/corpus.py": (
        "tests/store/test_corpus_upload.py",
        "tests/store/test_corpus_statistics.py",
    ),
    "app/logs/notifications/events.py": ("tests/app/logs/notifications/test_event_messages.py",),
    "app/logs/ingest/stream.py": ("tests/app/logs/ingest/test_stream.py",),
    "store/local_blobs.py": (
        "tests/store/test_local_blobs.py",
        "tests/store/test_blobs.py",
        "tests/store/test_power_loss.py",
    ),
    "store/models.py": (
        "tests/store/test_models.py",
        "tests/store/test_aliases.py",
        "tests/app/logs/test_room.py",
    ),
    "store/gunzip.py": ("tests/app/corpora/test_routes.py", "tests/app/scoring/test_line_streams.py"),
    "store/object_blobs.py": ("tests/store/test_object_blobs.py", "tests/store/test_blobs.py"),
    "store/open_blobs.py": ("tests/store/test_blobs.py",),
    "store/settings.py": ("tests/store/test_settings.py", "tests/launcher/test_settings.py"),
    "worker/attempt.py": (
        "tests/worker/test_attempt.py",
        "tests/worker/test_two_attempts.py",
        "tests/worker/test_tasks.py",
    ),
    "worker/evaluator.py": ("tests/worker/test_training.py",),
    "worker/trainer.py": (
        "tests/worker/test_training.py",
        "tests/worker/test_early_stopping.py",
        "tests/worker/test_numerics.py",
    ),
    "worker/training.py": ("tests/worker/test_training.py", "tests/worker/test_precision.py"),
}
"""The tests of files that have none of their own, or not these alone."""


def mirror_tests(file: str) -> tuple[str, ...]:
    """Return the tests that must find the faults of a file: files, and the examples in its docstrings.

    >>> mirror_tests("store/live.py")
    ('tests/store/test_live.py',)
    """
    path = Path(file)
    tests = _TESTS.get(file, (str("tests" / path.with_name(f"test_{path.name}")),))
    if ">>> " not in (ROOT / file).read_text(encoding="utf-8"):
        return tests
    module = ".".join(("nextchar", *path.with_suffix("").parts))
    return (f"tests/test_docstrings.py::test_examples_give_what_they_say[{module}]", *tests)


def files_of(group: str) -> list[str]:
    """Return the files of a group that have any faults to derive."""
    found = sorted(path for pattern in GROUPS[group] for path in ROOT.glob(pattern))
    return [str(path.relative_to(ROOT)) for path in found if count_faults(path.read_text(encoding="utf-8"))]


def sample(group: str, size: int, *, seed: int) -> Iterator[Mutant]:
    """Yield `size` faults of a group, each equally likely, without repetition."""
    places = [
        (file, index)
        for file in files_of(group)
        for index in range(count_faults((ROOT / file).read_text(encoding="utf-8")))
    ]
    for file, index in sorted(random.Random(f"{seed} {group}").sample(places, min(size, len(places)))):
        source = (ROOT / file).read_text(encoding="utf-8")
        name, new = fault(source, index)
        yield Mutant(f"{file}:{name}", file, new, mirror_tests(file))
