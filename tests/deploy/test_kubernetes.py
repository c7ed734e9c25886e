"""deploy/kubernetes: valid by Kubernetes' schemas, and the same containers as docker-compose.yml's."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nextchar.app.core_settings import _bytes_of
from nextchar.app.rooms import ApiSettings
from nextchar.worker.settings import WorkerSettings
from tests.test_compose import composed

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "s3")
KUSTOMIZE = ("kustomization.yaml", "name-references.yaml")  # its own files, which are no manifests
OLDEST, NEWEST = "1.30", "1.37"  # the oldest version with preStop.sleep, and the newest whose schemas we have
GI = 1 << 30

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

Manifest = dict[str, Any]


def manifests_in(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def manifests() -> list[Manifest]:
    """What the files of the base and the overlays have, except for kustomize's own."""
    files = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.name not in KUSTOMIZE]
    return [manifest for path in files for manifest in manifests_in(path.read_text())]


def rendered(folder: str) -> list[Manifest]:
    command = ["kubectl", "kustomize", str(FOLDER / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return manifests_in(done.stdout)


def named(found: list[Manifest], kind: str, name: str) -> Manifest:
    (one,) = (m for m in found if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return one


def pods(found: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates by component."""
    return {
        "api": named(found, "Deployment", "nextchar-api")["spec"]["template"],
        "redis": named(found, "StatefulSet", "nextchar-redis")["spec"]["template"],
        "worker": named(found, "ScaledJob", "nextchar-worker")["spec"]["jobTargetRef"]["template"],
        "batch-worker": named(found, "Deployment", "nextchar-batch-worker")["spec"]["template"],
    }


def container(pod: Manifest) -> Manifest:
    (only,) = pod["spec"]["containers"]
    return dict(only)


def environment(pod: Manifest) -> dict[str, str | None]:
    return {one["name"]: one.get("value") for one in container(pod)["env"]}


def check_schemas(found: list[Manifest], version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for manifest in found:
        if manifest["kind"] == "ScaledJob":  # KEDA's; what it starts is Kubernetes' own
            metadata = {"name": manifest["metadata"]["name"]}
            job = {"kind": "Job", "apiVersion": "batch/v1", "metadata": metadata}
            validator.validate(job | {"spec": manifest["spec"]["jobTargetRef"]}, version, strict=True)
        elif manifest["kind"] == "ScaledObject":  # KEDA's; it makes an autoscaler of it
            assert manifest["spec"]["scaleTargetRef"]["name"] == "nextchar-api"
        elif manifest["kind"] == "TriggerAuthentication":
            (reference,) = manifest["spec"]["secretTargetRef"]
            assert set(reference) == {"parameter", "name", "key"}
        else:
            validator.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_file_is_valid_by_the_schemas_of_old_and_new_versions(version: str) -> None:
    found = manifests()
    assert len(found) > 15
    check_schemas(found, version)


def test_a_wrong_field_is_found() -> None:
    wrong = named(manifests(), "Service", "nextchar-api")
    wrong["spec"]["port"] = wrong["spec"].pop("ports")
    with pytest.raises(Exception, match="port"):
        check_schemas([wrong], NEWEST)


def test_kustomize_names_every_file_and_no_other() -> None:
    for kustomization in FOLDER.rglob("kustomization.yaml"):
        fields = yaml.safe_load(kustomization.read_text())
        assert fields["namespace"] == "nextchar"
        files = {path.name for path in kustomization.parent.glob("*.yaml")} - set(KUSTOMIZE)
        assert {name for name in fields["resources"] if not name.startswith("..")} == files


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_renders_to_valid_manifests_with_pushed_images(overlay: str) -> None:
    found = rendered(f"overlays/{overlay}")
    check_schemas(found, OLDEST)
    assert all(m["metadata"].get("namespace") == "nextchar" for m in found if m["kind"] != "Namespace")
    images = {name: container(pod)["image"] for name, pod in pods(found).items()}
    assert images["redis"] == composed()["redis"]["image"]
    page = (ROOT / "docs/how-to/deploy.md").read_text()
    for name in ("api", "worker"):
        assert re.fullmatch(r"registry\.example\.org/nextchar-[a-z-]+:[\d.]+", images[name])
        assert f"$ docker push {images[name]}\n" in page
    assert images["worker"].endswith("worker-gpu:0.2.0") == (overlay == "gpu")


@needs_kubectl
def test_overlays_differ_in_what_they_are_for() -> None:
    base = rendered("base")
    gpu = pods(rendered("overlays/gpu"))["worker"]
    limits = container(pods(base)["worker"])["resources"]["limits"]
    assert container(gpu)["resources"]["limits"] == limits | {"nvidia.com/gpu": "1"}
    written = yaml.safe_load((ROOT / "deploy" / "docker-compose.gpu.yml").read_text())
    for name in ("TF_FORCE_GPU_ALLOW_GROWTH", "NEXTCHAR_PRECISION"):
        assert str(written["services"]["worker"]["environment"][name]).endswith(
            (str(environment(gpu)[name]), f"{environment(gpu)[name]}}}")
        )
    assert gpu["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"

    s3 = rendered("overlays/s3")
    assert named(base, "PersistentVolumeClaim", "nextchar-data")
    assert not [m for m in s3 if m["kind"] == "PersistentVolumeClaim"]
    assert settings_map(s3)["data"]["NEXTCHAR_STORE_URL"].startswith("s3://")
    assert named(s3, "NetworkPolicy", "nextchar-to-object-store")
    for name in ("api", "worker", "batch-worker"):
        pod = pods(s3)[name]
        (data,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "data")
        assert set(data) == {"name", "ephemeral"}, "a disk of its own, whose free space the service sees"
        assert {"secretRef": {"name": "nextchar-s3", "optional": True}} in container(pod)["envFrom"]


@needs_kubectl
def test_a_changed_setting_starts_new_pods(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes" / "base" / "settings.env"
    names = set()
    for text in (file.read_text(), file.read_text().replace("INFO", "DEBUG")):
        file.write_text(text)
        found = rendered(str(tmp_path / "kubernetes" / "overlays" / "s3"))
        name = settings_map(found)["metadata"]["name"]
        names.add(name)
        for pod in (pods(found)["api"], pods(found)["worker"]):
            assert {"configMapRef": {"name": name}} in container(pod)["envFrom"]
    assert len(names) == 2


def settings_map(found: list[Manifest]) -> Manifest:
    (one,) = (m for m in found if m["kind"] == "ConfigMap")
    return one


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def stage(name: str) -> str:
    """The last stage of the Dockerfile with this name."""
    return dockerfile().split(f" AS {name}\n")[1].split("\nFROM ")[0]


@pytest.mark.parametrize("name", ["api", "worker"])
def test_containers_run_the_command_and_the_user_of_the_image(name: str) -> None:
    pod = pods(manifests())[name]
    (command,) = re.findall(r"^CMD (\[.*\])", stage(name), re.MULTILINE)
    assert container(pod)["command"] == yaml.safe_load(command)
    user, group = (re.findall(rf"--{what} (\d+)", dockerfile())[0] for what in ("uid", "gid"))
    rights = pod["spec"]["securityContext"]
    assert (rights["runAsUser"], rights["runAsGroup"]) == (int(user), int(group))
    assert {m["name"]: m["mountPath"] for m in container(pod)["volumeMounts"]}["data"] == "/data"


def test_redis_has_the_arguments_of_the_compose_file_and_a_password() -> None:
    arguments = container(pods(manifests())["redis"])["args"]
    assert arguments == [*composed()["redis"]["command"], "--requirepass", "$(REDIS_PASSWORD)"]


@pytest.mark.parametrize("name", ["api", "redis", "worker", "batch-worker"])
def test_no_pod_can_do_more_than_a_container_of_the_compose_file(name: str) -> None:
    pod, service = pods(manifests())[name], composed()[name]
    rights = container(pod)["securityContext"]
    assert rights["readOnlyRootFilesystem"] is service["read_only"] is True
    assert rights["capabilities"] == {"drop": service["cap_drop"]}
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert rights["allowPrivilegeEscalation"] is False
    user = pod["spec"]["securityContext"]
    assert user["runAsNonRoot"] and user["runAsUser"] > 0
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    limit = container(pod)["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) * GI == _bytes_of(service["mem_limit"])
    mounted = {one["mountPath"] for one in container(pod)["volumeMounts"]}
    assert "/tmp" in mounted  # noqa: S108  what a read-only container may write to
    assert mounted <= {"/tmp", "/data", "/etc/nextchar"}  # noqa: S108


def test_a_worker_of_batches_is_the_api_s_image_with_the_worker_s_program() -> None:
    pod, service = pods(manifests())["batch-worker"], composed()["batch-worker"]
    assert container(pod)["image"] == service["image"] == "nextchar-api"
    assert (
        container(pod)["command"] == service["command"] == container(pods(manifests())["worker"])["command"]
    )
    assert environment(pod)["NEXTCHAR_QUEUE"] == service["environment"]["NEXTCHAR_QUEUE"] == "batches"
    assert container(pod)["readinessProbe"]["exec"]["command"] == service["healthcheck"]["test"][1:]
    assert f"{pod['spec']['terminationGracePeriodSeconds']}s" == service["stop_grace_period"]


def test_settings_of_the_pods_exist_and_the_api_knows_the_workers_memory() -> None:
    fields = {f"NEXTCHAR_{name.upper()}" for name in ApiSettings.model_fields}
    settings = (FOLDER / "base" / "settings.env").read_text()
    both = set(re.findall(r"^(\w+)=", settings, re.MULTILINE))
    found = pods(manifests())
    api, worker = environment(found["api"]), environment(found["worker"])
    assert both | set(api) - {"REDIS_PASSWORD"} <= fields
    of_worker = {f"NEXTCHAR_{name.upper()}" for name in WorkerSettings.model_fields}
    assert both | set(worker) - {"REDIS_PASSWORD"} <= of_worker
    assert api["NEXTCHAR_REDIS_URL"] == worker["NEXTCHAR_REDIS_URL"]
    limit = container(found["worker"])["resources"]["limits"]["memory"]
    assert f"{_bytes_of(str(api['NEXTCHAR_WORKER_MEMORY'])) // GI}Gi" == limit


def test_probes_and_ports_are_those_of_the_image() -> None:
    api = container(pods(manifests())["api"])
    (port,) = re.findall(r"^EXPOSE (\d+)", stage("api"), re.MULTILINE)
    assert api["ports"] == [{"name": "http", "containerPort": int(port)}]
    paths = {probe: api[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])", stage("worker"), re.MULTILINE)
    worker = container(pods(manifests())["worker"])
    assert worker["readinessProbe"]["exec"]["command"] == yaml.safe_load(check)
    sleep_s = api["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace_s = pods(manifests())["api"]["spec"]["terminationGracePeriodSeconds"]
    stop_s = int(composed()["api"]["stop_grace_period"].removesuffix("s"))
    assert ApiSettings.model_fields["drain_s"].default + 10 <= stop_s and sleep_s + stop_s <= grace_s


def secrets_of(value: Any) -> Iterator[str]:
    """The names of the secrets that a manifest refers to."""
    match value:
        case {"secretKeyRef": {"name": name}} | {"secretRef": {"name": name}} | {"secretName": name}:
            yield name
        case dict():
            for inner in value.values():
                yield from secrets_of(inner)
        case list():
            for inner in value:
                yield from secrets_of(inner)


def test_secrets_are_only_referred_to_and_the_guide_makes_them() -> None:
    found = manifests()
    assert not [m for m in found if m["kind"] == "Secret"]
    guide = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    referred = set(secrets_of(found)) | {"nextchar-s3"}
    assert referred == {"nextchar-redis", "nextchar-api-keys", "nextchar-s3"}
    for name in referred:
        assert f"create secret generic {name} " in guide


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    rules = selector.get("matchExpressions", [])
    assert all(rule["operator"] == "In" for rule in rules)
    matches = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return matches and all(labels.get(rule["key"]) in rule["values"] for rule in rules)


def test_only_api_workers_and_keda_reach_redis_and_only_the_api_is_reached_by_others() -> None:
    found = manifests()
    policies = [m for m in found if m["kind"] == "NetworkPolicy"]
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(found).items()}
    default = named(found, "NetworkPolicy", "nextchar-default")["spec"]
    assert set(default["policyTypes"]) == {"Ingress", "Egress"} and "ingress" not in default
    assert all(selects(default["podSelector"], pod) for pod in labels.values())
    entrances = {
        name: [
            rule
            for policy in policies
            if selects(policy["spec"]["podSelector"], pod)
            for rule in policy["spec"].get("ingress", [])
        ]
        for name, pod in labels.items()
    }
    assert entrances["worker"] == []
    assert entrances["api"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    (to_redis,) = entrances["redis"]
    of_pods, of_keda = to_redis["from"]
    callers = {name for name, pod in labels.items() if selects(of_pods["podSelector"], pod)}
    assert callers == {"api", "worker", "batch-worker"}
    assert of_keda == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}


def test_selectors_of_services_budgets_and_scalers_find_their_pods() -> None:
    found = manifests()
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(found).items()}
    for name in ("api", "redis"):
        assert named(found, "Service", f"nextchar-{name}")["spec"]["selector"] == labels[name]
    for kind in ("Deployment", "PodDisruptionBudget"):
        selector = named(found, kind, "nextchar-api")["spec"]["selector"]
        assert selects(selector, labels["api"])
    scaler = named(found, "HorizontalPodAutoscaler", "nextchar-api")["spec"]
    target = scaler["scaleTargetRef"]
    deployment = named(found, target["kind"], target["name"])
    assert "replicas" not in deployment["spec"] and scaler["minReplicas"] >= 2
    request = container(pods(found)["api"])["resources"]["requests"]
    assert "cpu" in request  # of which the scaler measures the share
