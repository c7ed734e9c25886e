"""The state of a training run, without its arrays. A checkpoint keeps it as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from nextchar.worker.schedule import Schedule

MAX_EVALUATIONS = 20
EVALUATION_CHARACTERS = 40_000  # of held-out text; the report at the end reads more
COOLDOWN_EVALUATIONS = 4  # with the one at its end

_STORED_NAMES = {"window_index": "k"}  # by field, where a checkpoint has another name


@dataclass
class RunState:
    """Everything that changes during training, except arrays."""

    schedule: Schedule
    step: int = 0
    epoch: int = 0
    window_index: int = 0  # of the next window in its epoch
    elapsed_s: float = 0.0
    rate_scale: float = 1.0  # halved at each rollback
    dropout: float | None = None  # None: the network's configuration fixes it
    retries: int = 0  # rollbacks so far
    first_loss: float | None = None  # nats per character
    best_bits: float = float("inf")
    best_step: int = 0
    evaluations: int = 0  # done
    evaluations_since_best: int = 0
    evaluations_planned: int = MAX_EVALUATIONS
    evaluation_characters: int = EVALUATION_CHARACTERS
    ended_early: str | None = None  # why, since the run is in its cooldown; see nextchar.worker.divergence
    evaluation_s: float = 0.0  # duration of one evaluation, if a budget in seconds must reserve time for them
    curve: list[dict[str, Any]] = field(default_factory=list)  # the metrics of each evaluation

    @property
    def is_finished(self) -> bool:
        """Whether the budget is used up."""
        return self.step >= self.schedule.end

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the run has reached its next planned evaluation; in its cooldown, the end of a quarter."""
        if self.ended_early:  # progress rises so fast that those planned would come at nearly every step
            done, steps = self.step - self.schedule.step, self.schedule.end - self.schedule.step
            return done * COOLDOWN_EVALUATIONS // steps > (done - 1) * COOLDOWN_EVALUATIONS // steps
        return int(self.schedule.at(self.step) * self.evaluations_planned) >= self.evaluations

    def advance(self, *, windows_per_epoch: int) -> None:
        """Advance to the next step and its window."""
        self.step += 1
        self.window_index += 1
        if self.window_index == windows_per_epoch:
            self.epoch, self.window_index = self.epoch + 1, 0

    def to_meta(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "RunState":
        """Return the state that `to_meta` returned `meta` for."""
        field_names = {stored: name for name, stored in _STORED_NAMES.items()}
        values = {field_names.get(name, name): value for name, value in meta.items()}
        own = {"schedule": Schedule(**values["schedule"]), "curve": list(values["curve"])}
        return cls(**{**values, **own})
