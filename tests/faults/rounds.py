"""Fault rounds: a whole installation under load is broken at random moments, and checked after each fault.

    make faults ROUNDS=200 SEED=1

Everything random comes from the seed: which fault, when, for how long. A round's violations name the seed and
the round; `--only` repeats the faults of one kind. The exit status is 1 if anything was violated.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from redis.exceptions import RedisError

from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.test_main import publish_real
from tests.faults.checker import Checker
from tests.faults.faults import KINDS, Context, Kind, wait_for_redis
from tests.faults.installation import START_S, Installation
from tests.faults.workload import LINES_OF_CITIES, Ledger, Workload
from tests.models.runtime.networks import saved_model

RECOVERY_S = 30.0
"""Everything that can go on does within this time of a fault's end, on a machine that is not busy."""

_JOB_S = 300.0  # until a job has ended
_LATEST_S = 6.0  # of a fault after the load begins


@dataclass(frozen=True)
class Round:
    """One planned fault: its kind, when it begins after the load, how long it lasts, its random numbers."""

    number: int
    kind: Kind
    at_s: float
    for_s: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a round: seconds from the fault's end until calls, and jobs, went on."""

    round: Round
    serving_s: float
    jobs_s: float
    notes: tuple[str, ...]
    violations: tuple[str, ...]


def plan(seed: int, rounds: int, kinds: Sequence[Kind] = KINDS) -> list[Round]:
    """Return the rounds of a seed: each kind once in random order, then all again."""
    numbers, deck, planned = random.Random(seed), list[Kind](), list[Round]()
    for number in range(1, rounds + 1):
        if not deck:
            deck = list(kinds)
            numbers.shuffle(deck)
        kind = deck.pop()
        at_s, for_s = numbers.uniform(0.2, _LATEST_S), numbers.uniform(kind.min_s, kind.max_s)
        planned.append(Round(number, kind, at_s, for_s, numbers.randrange(2**31)))
    return planned


class Runner:
    """Runs rounds against one installation.

    Args:
        job_steps: training steps of each job.
        job_every: a job is sent in each round of so many.
        settle_every: after so many rounds wait until all jobs have ended, and check everything.
        latest_s: the latest moment of a fault after the load begins.
        max_fault_s: the longest fault.
        recovery_s: the longest time from a fault's end until everything goes on.
    """

    def __init__(
        self,
        installation: Installation,
        *,
        job_steps: int = 150,
        job_every: int = 1,
        settle_every: int = 1,
        latest_s: float = _LATEST_S,
        max_fault_s: float = 60.0,
        recovery_s: float = RECOVERY_S,
    ) -> None:
        self.installation, self.ledger = installation, Ledger()
        self.workload = Workload(installation.url, self.ledger)
        self.checker = Checker(installation, self.ledger)
        self._job_steps, self._job_every, self._settle_every = job_steps, job_every, settle_every
        self._latest_s, self._max_fault_s = latest_s, max_fault_s
        self._recovery_s = recovery_s
        self._context: Context | None = None
        self.workload.damaged = lambda: self._context and self._context.damaged
        self.workload.loses_redis = lambda: bool(self._context and self._context.loses_redis)

    def prepare(self) -> None:
        """Publish a model, and train one without a disturbance: its weights are those of all others."""
        publish_real(self.installation.data_dir)
        cities = saved_model(name="cities", kind="records", lines=LINES_OF_CITIES)
        files = {name: cities.file(name) for name in cities.card.files}
        Models(open_blobs(self.installation.store.as_uri())).publish(cities.card, files)
        self._wait(self.installation.is_ready, START_S, "the API is ready")
        self.workload.prepare()
        self.checker.sent_keys += 1
        with self.workload.client() as http:
            self.workload.submit_once(http, "undisturbed", self._job_steps)
        self._wait(lambda: not self.checker.unfinished(), _JOB_S, "the undisturbed job ends")
        assert not (found := list(self.checker.violations())), found

    def run(self, rounds: Sequence[Round]) -> Iterator[Outcome]:
        """Run rounds, one after the other."""
        for planned in rounds:
            is_last = planned is rounds[-1]
            yield self._run(planned, settles=is_last or planned.number % self._settle_every == 0)

    def _run(self, planned: Round, *, settles: bool) -> Outcome:
        self.ledger.violations.clear()
        context = self._context = Context(self.installation, random.Random(planned.seed))
        sends_job = planned.number % self._job_every == 0
        self.checker.sent_keys += sends_job
        self.workload.start(self._job_steps if sends_job else None)
        time.sleep(min(planned.at_s, self._latest_s))  # the fault's moment is the seed's
        with planned.kind.fault(context):
            if context.damaged:
                self.checker.may_fail |= {job.id for job in self.checker.unfinished()}
            time.sleep(min(planned.for_s, self._max_fault_s))
        ended_s = time.monotonic()
        serving_s, late = self._until_calls_work(ended_s)
        jobs_s = self._until_jobs_go_on(ended_s)
        self.workload.stop()
        found = list(self.ledger.violations)
        if serving_s > self._recovery_s:
            found.append(f"after {serving_s:.1f} s these calls were not answered: {late}")
        if jobs_s > self._recovery_s:
            found.append(f"jobs went on only after {jobs_s:.1f} s: {self.checker.unfinished()}")
        wait_for_redis(self.installation)
        if context.loses_redis:
            self._waited(self._is_scored, 60.0)  # what was accepted after the loss
            self.checker.forget_lines()
        if settles:
            found += self._settle()
        if context.damaged:  # what is said of a damaged file while it is damaged is no violation, but for 500
            found = [one for one in found if ": 500 " in one or "lost" in one or "other" in one]
        context.damaged = None
        return Outcome(planned, serving_s, jobs_s, tuple(context.notes), tuple(found))

    def _until_calls_work(self, ended_s: float) -> tuple[float, list[str]]:
        """Return how long after the fault's end every kind of call has been answered once, and what has not.

        Gives up after a while.
        """
        w = self.workload
        waiting = [
            w.complete,
            w.stream_completion,
            w.score,
            w.score_lines,
            w.tell,
            w.count,
            w.suggest,
            w.upload,
            w.calibrate,
            w.label,
            w.read,
        ]
        with w.client() as http:
            while waiting and time.monotonic() - ended_s < 2 * self._recovery_s:
                waiting = [call for call in waiting if not w.attempt(call, http)]
                if waiting:
                    time.sleep(0.1)
        return time.monotonic() - ended_s, [call.__name__ for call in waiting]

    def _until_jobs_go_on(self, ended_s: float) -> float:
        """Return how long after the fault's end no job waits for anything but another job."""
        while not self._do_jobs_go_on() and time.monotonic() - ended_s < 2 * self._recovery_s:
            time.sleep(0.1)
        return time.monotonic() - ended_s

    def _do_jobs_go_on(self) -> bool:
        try:
            unfinished = self.checker.unfinished()
            with self.installation.redis() as redis:
                running = [job for job in unfinished if redis.exists(f"nextchar:job:{job.id}:lease")]
        except (RedisError, OSError, AssertionError):
            return False
        return not unfinished or bool(running)

    def _settle(self) -> Iterator[str]:
        """Wait until nothing is under way; yield what is wrong."""
        with self.workload.client() as http:
            deadline = time.monotonic() + self._recovery_s
            # The last batch, whose answer may have been lost, is sent until it is acknowledged.
            while not self.workload.attempt(self.workload.ingest, http) and time.monotonic() < deadline:
                time.sleep(0.1)
        for what, is_done, within_s in (
            ("every job ends", lambda: not self.checker.unfinished(), _JOB_S),
            ("every ingested line is scored", self._is_scored, 60.0),
        ):
            if not self._waited(is_done, within_s):
                yield f"not within {within_s:.0f} s: {what} ({self._waiting()})"
        yield from self.checker.violations()

    def _is_scored(self) -> bool:
        with self.workload.client() as http:
            answer = http.get("/v1/models/real/ingest")
            return answer.status_code == 200 and answer.json()["waiting"] == 0

    def _waiting(self) -> str:
        with self.workload.client() as http:
            return f"{http.get('/v1/models/real/ingest').text}; {self.checker.unfinished()}"

    def _wait(self, condition: "object", within_s: float, what: str) -> None:
        assert self._waited(condition, within_s), f"not within {within_s:.0f} s: {what}"

    @staticmethod
    def _waited(condition: "object", within_s: float) -> bool:
        assert callable(condition)
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a table in Markdown: fault, rounds, recovery of calls and of jobs."""
    by_kind = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.round.kind.name].append(outcome)
    lines = [
        "| fault | rounds | calls work after: median, worst | jobs go on after: median, worst | violated |",
        "|---|---|---|---|---|",
    ]
    for name in (kind.name for kind in KINDS if kind.name in by_kind):
        found = by_kind[name]
        serving, jobs = ([getattr(o, field) for o in found] for field in ("serving_s", "jobs_s"))
        lines.append(
            f"| {name} | {len(found)} | {median(serving):.1f} s, {max(serving):.1f} s"
            f" | {median(jobs):.1f} s, {max(jobs):.1f} s | {sum(bool(o.violations) for o in found)} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds, print one line for each and the table at the end; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of faults")
    parser.add_argument("--recovery", type=float, default=RECOVERY_S, help="seconds; more on a busy machine")
    parser.add_argument("--minutes", type=float, default=10**6, help="begin no round after this time")
    parser.add_argument("--logs", type=Path, help="a folder that the logs are copied to at the end")
    given = parser.parse_args(arguments)
    began_s, outcomes = time.monotonic(), []
    print(f"seed {given.seed}, {given.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults") as folder, Installation(Path(folder)) as installation:
        kinds = [
            kind
            for kind in KINDS
            if (installation.has_own_disk or not kind.needs_own_disk)
            and (not given.only or any(part in kind.name for part in given.only))
        ]
        runner = Runner(installation, recovery_s=given.recovery)
        runner.prepare()
        for outcome in runner.run(plan(given.seed, given.rounds, kinds)):
            outcomes.append(outcome)
            planned = outcome.round
            print(
                f"{planned.number:4d} {planned.kind.name} at {planned.at_s:.1f} s for {planned.for_s:.1f} s"
                f" ({'; '.join(outcome.notes)}):"
                f" calls {outcome.serving_s:.1f} s, jobs {outcome.jobs_s:.1f} s",
                *(f"\n     VIOLATED (seed {given.seed}): {one}" for one in outcome.violations),
                flush=True,
            )
            if time.monotonic() - began_s > 60 * given.minutes:
                break
        if given.logs:
            given.logs.mkdir(parents=True, exist_ok=True)
            for log in (installation.data_dir / "logs").iterdir():
                (given.logs / log.name).write_bytes(log.read_bytes())
    print(table(outcomes))
    violated = sum(bool(outcome.violations) for outcome in outcomes)
    ledger = runner.ledger
    figures = {
        "seed": given.seed,
        "rounds": len(outcomes),
        "violated": violated,
        "calls": sum(ledger.calls.values()),
        "refused": sum(ledger.refused.values()),
        "corpora": len(ledger.corpora),
        "jobs": len(ledger.jobs),
        "labels": len(ledger.labels),
        "lines": ledger.next_line,
        "seconds": round(time.monotonic() - began_s),
    }
    print(json.dumps(figures))
    return int(violated > 0)


if __name__ == "__main__":
    sys.exit(main())
