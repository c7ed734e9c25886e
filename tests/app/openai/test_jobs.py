from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from nextchar.models.auto_preset import RULES
from nextchar.models.config import PRESETS
from nextchar.models.errors import StorageFull
from nextchar.store.jobs import JobError, JobStatus
from nextchar.store.local_blobs import LocalBlobs
from tests.app.service import TEXT, Service, error_of


def post(service: Service, body: str) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return service.http.post("/v1/fine_tuning/jobs", content=body, headers=headers)


def metrics(number: int, step: int, train: float | None, validation: float) -> dict[str, Any]:
    data = {"step": step, "train_bits_per_character": train, "validation_bits_per_character": validation}
    return {"id": number, "at": 1795563600.5 + number, "type": "metrics", "data": data}


def test_job_is_ours_under_the_same_id(service: Service, sdk: openai.OpenAI) -> None:
    hyperparameters = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 0.5}
    job = sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=service.upload(),
        suffix="fox",
        seed=7,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[typeddict-item]
    )
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "queued", "tiny", 7)
    assert job.hyperparameters.to_dict() == hyperparameters and job.metadata == {"team": "a"}
    assert job.method and job.method.supervised and job.method.supervised.hyperparameters
    assert job.error is None and job.fine_tuned_model is None and job.finished_at is None
    request = service.jobs.get(job.id).request
    assert request.name == "fox" and request.training.budget.epochs == 3 and request.training.rows == 8
    assert request.training.learning_rate == PRESETS["tiny"][1].learning_rate / 2
    assert sdk.fine_tuning.jobs.retrieve(job.id) == job
    assert list(sdk.fine_tuning.jobs.list()) == [job]


def test_model_auto_is_the_preset_that_the_worker_chooses(service: Service, sdk: openai.OpenAI) -> None:
    job = sdk.fine_tuning.jobs.create(
        model="auto", training_file=service.upload(), hyperparameters={"learning_rate_multiplier": 0.5}
    )
    request = service.jobs.get(job.id).request
    assert (job.model, request.preset, request.name) == ("auto", "auto", "ft-auto")
    rates = [rule.training.learning_rate / 2 for rule in RULES]
    assert [one.training.learning_rate for one in request.candidates] == rates


def test_older_place_of_hyperparameters_and_auto_are_understood(service: Service, sdk: openai.OpenAI) -> None:
    job = sdk.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(), hyperparameters={"n_epochs": "auto", "batch_size": 4}
    )
    request = service.jobs.get(job.id).request
    assert request.training.rows == 4 and request.training.budget.seconds and request.name == "ft-tiny"
    assert job.hyperparameters.n_epochs == job.hyperparameters.learning_rate_multiplier == "auto"


def test_job_created_by_the_native_api_is_listed_too(service: Service, sdk: openai.OpenAI) -> None:
    job = sdk.fine_tuning.jobs.retrieve(service.submit())
    assert job.model == "stateful_lstm" and job.metadata is None
    assert job.training_file == service.upload()


def test_validation_file_is_held_out(service: Service, sdk: openai.OpenAI) -> None:
    validation = "the lazy dog sleeps, and the fox é jumps\n" * 3
    job = sdk.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(), validation_file=service.upload(validation)
    )
    assert (job.training_file, job.validation_file) == (service.upload(), service.upload(validation))
    request = service.jobs.get(job.id).request
    whole = "".join(service.corpora.pieces(request.corpus))
    assert whole == TEXT + validation
    held_out = round(len(whole) * request.training.validation_fraction)
    assert whole[len(whole) - held_out :] == validation


def test_validation_begins_on_a_line_of_its_own(service: Service, sdk: openai.OpenAI) -> None:
    validation = "the lazy dog sleeps, and the fox jumps\n" * 3
    training, held_out = service.upload(TEXT.removesuffix("\n")), service.upload(validation)
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=training, validation_file=held_out)
    request = service.jobs.get(job.id).request
    whole = "".join(service.corpora.pieces(request.corpus))
    assert whole == TEXT + validation
    assert round(len(whole) * request.training.validation_fraction) == len(validation)


def test_validation_file_is_held_out_of_records_too(service: Service, sdk: openai.OpenAI) -> None:
    words = [f"{a}{b}{c}" for a in "abdefg" for b in "aeiou" for c in "klmnrst"]
    training, validation = "\n".join(words[:160]) + "\n", "\n".join(words[160:]) + "\n"
    job = sdk.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(training), validation_file=service.upload(validation)
    )
    request = service.jobs.get(job.id).request
    assert service.corpora.get(request.corpus).kind == "records" and request.kind == "text"
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=service.upload(training))
    assert service.jobs.get(job.id).request.kind == "records"


@pytest.mark.parametrize("which", [0, 1])
def test_corpus_made_for_a_validation_file_goes_with_either_file(
    service: Service, sdk: openai.OpenAI, which: int
) -> None:
    files = [service.upload(), service.upload("the lazy dog sleeps, and the fox jumps\n" * 3)]
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=files[0], validation_file=files[1])
    with pytest.raises(openai.ConflictError, match=job.id):
        sdk.files.delete(files[which])
    assert {file.id for file in sdk.files.list()} > set(files)
    sdk.fine_tuning.jobs.cancel(job.id)
    sdk.files.delete(files[which])
    assert [file.id for file in sdk.files.list()] == [files[1 - which]]
    sdk.files.delete(files[1 - which])
    assert service.blobs.paths("openai_joined") == [] == service.corpora.all()


def test_refused_job_leaves_nothing_behind(service: Service) -> None:
    files = [service.upload(), service.upload("the lazy dog sleeps, and the fox jumps\n" * 3)]
    body = {"model": "nobody", "training_file": files[0], "validation_file": files[1]}
    error_of(service.http.post("/v1/fine_tuning/jobs", json=body), 404)
    assert {corpus.id for corpus in service.corpora.all()} == set(files)
    assert service.blobs.paths("openai_jobs") == []


def test_failing_write_of_what_only_openais_jobs_have_leaves_no_job(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [service.upload(), service.upload("the lazy dog sleeps, and the fox jumps\n" * 3)]
    body = {"model": "tiny", "training_file": files[0], "validation_file": files[1], "metadata": {"a": "b"}}
    write = LocalBlobs.write

    def refuse(blobs: LocalBlobs, path: str, data: bytes | Path) -> None:
        if path.startswith("openai_jobs/"):
            raise StorageFull("the storage is full")
        write(blobs, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBlobs, "write", refuse)
        error_of(service.http.post("/v1/fine_tuning/jobs", json=body), 507)
    assert service.jobs.all() == []
    assert {corpus.id for corpus in service.corpora.all()} == set(files)
    assert service.http.post("/v1/fine_tuning/jobs", json=body).json()["metadata"] == {"a": "b"}
    assert len(service.jobs.all()) == len(service.blobs.paths("openai_jobs")) == 1


def test_statuses_follow_the_job(service: Service, sdk: openai.OpenAI) -> None:
    job_id = service.submit()
    assert sdk.fine_tuning.jobs.pause(job_id).status == "paused"
    assert sdk.fine_tuning.jobs.resume(job_id).status == "queued"
    running = service.jobs.move(service.jobs.get(job_id), JobStatus.RUNNING)
    service.live.set_progress(job_id, {"step": 10, "steps": 20, "seconds_left": 30})
    told = sdk.fine_tuning.jobs.retrieve(job_id)
    assert told.status == "running" and told.estimated_finish and told.trained_tokens is None
    error = JobError(code="diverged", message="take a smaller rate")
    service.jobs.move(running, JobStatus.FAILED, error=error, progress={"step": 10})
    told = sdk.fine_tuning.jobs.retrieve(job_id)
    assert told.status == "failed" and told.finished_at and told.trained_tokens == 10 * 32 * 32
    assert told.error and (told.error.code, told.error.message) == ("diverged", "take a smaller rate")
    other = service.submit()
    assert sdk.fine_tuning.jobs.cancel(other).status == "cancelled"
    with pytest.raises(openai.ConflictError) as refused:
        sdk.fine_tuning.jobs.cancel(other)
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_events_come_newest_first_page_by_page_with_losses_in_nats(
    service: Service, sdk: openai.OpenAI
) -> None:
    job_id = service.submit()
    sample = {"id": 2, "at": 1795563602.0, "type": "sample", "data": {"step": 0, "text": "the fox"}}
    service.event_log.write(job_id, [metrics(1, 0, None, 3.0), sample])
    service.live.add_events(job_id, [metrics(3, 10, 2.0, 2.5)])
    events = list(sdk.fine_tuning.jobs.list_events(job_id, limit=1))
    assert [event.message for event in events] == [
        "step 10: train loss 1.3863, validation loss 1.7329",
        "the fox",
        "step 0: validation loss 2.0794",
    ]
    assert [event.type for event in events] == ["metrics", "message", "metrics"]
    assert events[0].data == {"step": 10, "train_loss": 1.3863, "valid_loss": 1.7329}
    checkpoints = list(sdk.fine_tuning.jobs.checkpoints.list(job_id, limit=1))
    assert [point.step_number for point in checkpoints] == [10, 0]
    assert checkpoints[0].metrics.full_valid_loss == 1.7329
    assert checkpoints[0].fine_tuned_model_checkpoint == "fox"
