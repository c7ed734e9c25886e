"""deploy/prometheus and deploy/grafana: checked by promtool, and by a Prometheus that scrapes an API."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from nextchar.app.access.keys import new_key
from nextchar.app.rooms import ApiSettings
from nextchar.launcher.stack import free_port
from tests.app.fakes import publish
from tests.app.service import Service, serving, until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "nextchar.json"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")

# Documented metrics that the dashboard leaves out, for queries by hand.
_NOT_ON_THE_DASHBOARD = """
    nextchar_models_loaded nextchar_engine_batch_invariant nextchar_engine_active
    nextchar_engine_cache_entries nextchar_engine_requests_total nextchar_engine_failures_total
    nextchar_engine_cancelled_total nextchar_engine_timeouts_total nextchar_engine_steps_total
    nextchar_engine_cache_lookups_total
    nextchar_engine_cache_evictions_total nextchar_kernel_giga_operations_per_second nextchar_kernel_failed
    nextchar_training_attempt_seconds_total nextchar_training_running_seconds
    nextchar_ingest_waiting_lines nextchar_ingest_waiting_bytes
    nextchar_alert_lines_total nextchar_notifications_total nextchar_notifications_failing
    nextchar_process_start_time_seconds
    process_virtual_memory_bytes process_start_time_seconds process_open_fds process_max_fds
    nextchar_background_last_beat_seconds nextchar_background_errors_total nextchar_api_keys_file_errors
    nextchar_damaged_records nextchar_ingest_flagged_bytes nextchar_alerts_evicted_total
    """

_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:nextchar|process)_\w+\b", text))


@pytest.fixture
def guarded(tmp_path: Path, clean_redis_url: str) -> Iterator[tuple[Service, str]]:
    """The API with API keys, a model and a job; and a key that may read."""
    secret, line = new_key("prometheus", scopes="read")
    trainer, trainers_line = new_key("trainer", scopes="admin")
    keys = tmp_path / "keys"
    keys.write_text(f"{line}\n{trainers_line}\n")
    settings = ApiSettings(data_dir=tmp_path, redis_url=clean_redis_url, port=0, api_keys_file=keys)
    with serving(settings) as service:
        service.http.headers["Authorization"] = f"Bearer {trainer}"
        publish(service.models)
        service.http.post("/v1/models/fake/complete", json={"prompt": ""}).raise_for_status()
        service.submit()
        yield service, secret


def test_every_metric_that_is_named_is_in_an_exposition(guarded: tuple[Service, str]) -> None:
    service, _ = guarded
    types = re.findall(r"^# TYPE (\w+) (\w+)$", service.http.get("/metrics").text, re.MULTILINE)
    exposed = {name + suffix for name, kind in types for suffix in _SUFFIXES[kind]}
    rules = (RULES / "alerts.yml").read_text() + (RULES / "alerts_test.yml").read_text()
    for named in (names_in(rules), names_in(" ".join(dashboard_queries()))):
        assert len(named) > 10 and named <= exposed, named - exposed


def test_the_dashboard_shows_every_documented_metric_but_the_listed_ones() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names_in(" ".join(dashboard_queries()))}
    assert len(documented) > 50 and documented - shown == names_in(_NOT_ON_THE_DASHBOARD)


@needs_promtool
@pytest.mark.parametrize(
    "check", [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"),
              ("test", "rules", "alerts_test.yml")], ids=" ".join,
)  # fmt: skip
def test_promtool_finds_no_fault(check: tuple[str, ...]) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *check], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr


def test_every_alert_is_tested_firing_and_quiet_and_is_explained() -> None:
    tested: dict[str, set[bool]] = {}
    for test in yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert tested == {alert["alert"]: {True, False} for alert in alerts()}
    page = (ROOT / "docs" / "how-to" / "operate.md").read_text()
    assert set(re.findall(r"`(Nextchar\w+)`", page)) == set(tested)
    for alert in alerts():
        assert set(alert["annotations"]) == {"summary", "description"}
        assert alert["labels"]["severity"] in ("critical", "warning")


@dataclass
class Prometheus:
    http: httpx.Client

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def prometheus(guarded: tuple[Service, str], tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus with our configuration, but for the address of the API and how often it is scraped."""
    if PROMETHEUS is None:
        pytest.skip("prometheus is not installed")
    service, secret = guarded
    folder = tmp_path / "prometheus"
    shutil.copytree(RULES, folder)
    (folder / "key").write_text(secret)
    configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
    del configuration["alerting"]
    configuration["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    (scrape,) = configuration["scrape_configs"]
    scrape["static_configs"][0]["targets"] = [f"{service.http.base_url.host}:{service.http.base_url.port}"]
    scrape["authorization"] = {"credentials_file": str(folder / "key")}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=60) as http:
            until(lambda: _is_ready(http) or running.poll() is not None)
            assert running.poll() is None, (folder / "log").read_text()
            yield Prometheus(http)
    finally:
        running.terminate()
        running.wait(120)


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_a_prometheus_scrapes_the_api_and_evaluates_rules_and_dashboard(prometheus: Prometheus) -> None:
    until(lambda: prometheus.value('up{job="nextchar"}') == 1)
    until(lambda: prometheus.value('nextchar_jobs{status="queued"}') == 1)
    assert prometheus.value("nextchar_queue_depth") == 1
    assert prometheus.value("nextchar_engine_requests_total") == 1
    assert (prometheus.value("process_resident_memory_bytes") or 0) > 1 << 20
    assert (prometheus.value('nextchar_disk_free_bytes{of="data"}') or 0) > 0
    queries = [query.replace("$__rate_interval", "1m") for query in dashboard_queries()]
    # Rates need two scrapes.
    until(lambda: sum(bool(prometheus.query(query)) for query in queries) > 15)

    def health() -> set[str]:
        groups = prometheus.http.get("/api/v1/rules").json()["data"]["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}

    until(lambda: health() == {"ok"})
