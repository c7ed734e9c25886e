"""Early models: what an unfinished job completes with while its network is trained.

    early_models/<name>/<job id>/<attempt>/<file>       the files of a model, as those of a version
    early_models/<name>/<job id>/<attempt>/model.json   its card

An early model exists while the record of its job names it (`Job.early`), which is written last. So it appears
and goes away at once with a transition of the job, whatever is left here; the retention sweep deletes that.
"""

from collections.abc import Mapping

from nextchar.models.errors import InvalidInput, NotFound, Unavailable
from nextchar.models.saved_model import Card, SavedModel, parse_card
from nextchar.store.blobs import Blobs
from nextchar.store.ids import check_name, is_id
from nextchar.store.jobs import Job, Jobs
from nextchar.store.model_file_cache import StoredFiles

_FOLDER = "early_models"
_CARD = "model.json"


class EarlyModels:
    """The early models in one storage."""

    def __init__(self, blobs: Blobs, files: StoredFiles) -> None:
        self._blobs, self._files, self._jobs = blobs, files, Jobs(blobs)

    def write(self, job: Job, card: Card, files: Mapping[str, bytes]) -> None:
        """Write the early model of an attempt at a job, which the caller then notes in the job's record."""
        folder = _folder_of(job, job.attempt)
        for name, data in files.items():
            self._blobs.write(f"{folder}/{name}", data)
        self._blobs.write(f"{folder}/{_CARD}", card.model_dump_json().encode())

    def resolve(self, reference: str) -> str | None:
        """Return what completes for a reference that is no version; None: nothing does.

        That is `name@job` of an early model: for the bare name, that of its newest job that has one. For the
        `name@job` of a job that has ended it is the version that the job published.
        """
        name, at, job_id = reference.partition("@")
        try:
            check_name(name)
        except InvalidInput:
            return None
        for candidate in [job_id] if at else reversed(self._blobs.folders(f"{_FOLDER}/{name}")):
            job = self._job(candidate)
            if job and job.request.name == name and (job.early or (at and job.model)):
                return early_reference(job) if job.early else job.model
        return None

    def get(self, reference: str) -> SavedModel:
        """Return the early model `name@job`. Raises NotFound: it has ended; Unavailable: it is damaged."""
        job = self._job(reference.partition("@")[2])
        if job is None or job.early is None:
            raise no_early_model(reference)
        folder = _folder_of(job, job.early.attempt)
        try:
            card = parse_card(self._blobs.read_record(f"{folder}/{_CARD}"), where=f"{folder}/{_CARD}")
        except FileNotFoundError:  # the job has ended meanwhile
            raise no_early_model(reference) from None
        return self._files.saved(card, folder)

    def delete(self, job: Job) -> None:
        """Delete what the attempts at a job have written so far."""
        paths = self._blobs.paths(f"{_FOLDER}/{job.request.name}/{job.id}")
        self._blobs.delete(*(path for path in paths if int(path.split("/")[3]) <= job.attempt))

    def sweep(self) -> int:
        """Delete what no record names; return the number of files."""
        paths = self._blobs.paths(_FOLDER)  # listed before the jobs, which are created earlier
        due = [path for path in paths if self._is_ended(path.split("/")[2])]
        self._blobs.delete(*due)
        return len(due)

    def _is_ended(self, job_id: str) -> bool:
        try:
            job = self._job(job_id)
        except Unavailable:  # its record is damaged
            return False
        return job is None or job.status.is_final

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._jobs.get(job_id) if is_id("job", job_id) else None
        except NotFound:
            return None


def early_reference(job: Job) -> str:
    """Return what the early model of a job is called by."""
    return f"{job.request.name}@{job.id}"


def is_early(reference: str) -> bool:
    """Return whether a reference has the form `name@job`, in which early models are called."""
    return is_id("job", reference.partition("@")[2])


def no_early_model(reference: str) -> NotFound:
    """Return the error for a `name@job` that completes nothing."""
    return NotFound(
        f"there is no model {reference!r}: the job has no early model, or it has ended without a model",
        code="model_not_found",
        param="model",
    )


def _folder_of(job: Job, attempt: int) -> str:
    return f"{_FOLDER}/{job.request.name}/{job.id}/{attempt}"
