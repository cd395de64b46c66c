"""Kubernetes manifests: valid by its own schemas, and in agreement with the server, the image and each other."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import skipvit
from serve.app import create_app
from serve.models.repository import Repository
from serve.settings import Settings
from tests.docker.dockerfile import DOCKERFILE, ROOT, command, last, read_stages
from tests.serve.servers import write_model

FOLDER = ROOT / "docker" / "k8s"
STAGES = read_stages(DOCKERFILE.read_text())
BUILT_IN = ("deployment", "service", "pdb", "hpa-cpu", "hpa-queue")
VERSIONS = ("1.31", kubernetes_validate.latest_version())
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return document


def deployed() -> dict[str, Any]:
    """The pod of the Deployment."""
    pod: dict[str, Any] = read("deployment")["spec"]["template"]["spec"]
    return pod


def pods() -> dict[str, dict[str, Any]]:
    """Every pod that runs the server, by who starts it."""
    return {"deployment": deployed(), "kserve": read("kserve-runtime")["spec"]}


def settings_of(container: dict[str, Any]) -> Settings:
    """What a container's environment sets; names that the server does not know are an error."""
    given = {each["name"].removeprefix("SKIPVIT_").lower(): each["value"] for each in container["env"]}
    assert set(given) <= set(Settings.model_fields)
    return Settings(**given)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    root = tmp_path_factory.mktemp("models")
    write_model(root)
    repository = Repository.open(root, Settings())
    try:
        return {getattr(route, "path", "") for route in create_app(Settings(), repository).routes}
    finally:
        repository.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_manifests_are_valid(name: str, version: str) -> None:
    assert version.startswith(kubernetes_validate.validate(read(name), version, strict=True))


def test_validation_refuses_an_unknown_field() -> None:
    document = read("service")
    document["spec"]["port"] = 80
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_kserve_runtime_starts_a_valid_pod() -> None:
    # Of KServe's own kind there is no schema here; of the pod that it starts there is.
    spec = {key: value for key, value in read("kserve-runtime")["spec"].items() if key in ("containers", "volumes")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "skipvit"}, "spec": spec}
    assert kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_kserve_runtime_claims_the_protocol_that_is_spoken(routes: set[str]) -> None:
    assert read("kserve-runtime")["spec"]["protocolVersions"] == ["v2"]
    model = "/v2/models/{name}"
    assert routes >= {"/v2", "/v2/health/live", "/v2/health/ready", model, f"{model}/ready", f"{model}/infer"}


def test_kserve_puts_models_where_the_container_looks() -> None:
    container = read("kserve-runtime")["spec"]["containers"][0]
    assert container["name"] == "kserve-container"  # KServe finds it by this name
    assert container["args"] == ["/mnt/models"] == command(last(STAGES, "serve-bare", "CMD"))


@pytest.mark.parametrize("pod", pods().values(), ids=pods())
def test_probes_ask_for_routes_of_the_server(pod: dict[str, Any], routes: set[str]) -> None:
    container = pod["containers"][0]
    ports = {port.get("name", port["containerPort"]): port["containerPort"] for port in container["ports"]}
    for probe in (container[name] for name in PROBES if name in container):
        assert probe["httpGet"]["path"] in routes
        assert ports[probe["httpGet"]["port"]] == settings_of(container).port
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("pod", pods().values(), ids=pods())
def test_no_request_is_lost_when_a_pod_stops(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    settings, probe = settings_of(container), container["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert settings.lame_duck_s > noticed
    killed = pod.get("terminationGracePeriodSeconds", 30)  # Kubernetes' default
    assert killed > settings.lame_duck_s + settings.drain_s


@pytest.mark.parametrize("pod", pods().values(), ids=pods())
def test_containers_are_locked_down(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    security = pod.get("securityContext", {}) | container["securityContext"]
    user = last(STAGES, "serve", "USER").value.partition(":")[0]
    assert (security["runAsNonRoot"], str(security["runAsUser"])) == (True, user)
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"tmp": last(STAGES, "serve", "WORKDIR").value}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert container["image"].endswith(f":{skipvit.__version__}")


def test_selectors_find_the_pods() -> None:
    deployment = read("deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    spread = deployed()["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
    budget = read("pdb")["spec"]["selector"]["matchLabels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == spread == budget
    assert read("service")["spec"]["selector"] == labels
    assert read("service")["spec"]["ports"][0]["targetPort"] == deployed()["containers"][0]["ports"][0]["name"]


@pytest.mark.parametrize("name", ["hpa-cpu", "hpa-queue"])
def test_autoscalers_count_the_deployments_pods(name: str) -> None:
    deployment, spec = read("deployment"), read(name)["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    assert spec["minReplicas"] > read("pdb")["spec"]["maxUnavailable"]


def test_queue_metric_is_the_adapters_and_stays_under_the_limit() -> None:
    pods_metric = read("hpa-queue")["spec"]["metrics"][0]["pods"]
    rules = read("prometheus-adapter")["rules"]["custom"]
    assert pods_metric["metric"]["name"] in {rule["name"]["as"] for rule in rules}
    assert 0 < int(pods_metric["target"]["averageValue"]) < settings_of(deployed()["containers"][0]).max_in_flight


def test_cpu_target_can_be_reached() -> None:
    resources = deployed()["containers"][0]["resources"]
    target = read("hpa-cpu")["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"]
    most = 100 * int(resources["limits"]["cpu"]) / int(resources["requests"]["cpu"])
    assert target < 0.8 * most


def test_scrape_annotations_lead_to_the_metrics(routes: set[str]) -> None:
    deployment = read("deployment")["spec"]["template"]["metadata"]["annotations"]
    kserve = read("kserve-runtime")["spec"]["annotations"]
    for prefix, annotations in (("prometheus.io", deployment), ("prometheus.kserve.io", kserve)):
        assert annotations[f"{prefix}/path"] in routes
        assert int(annotations[f"{prefix}/port"]) == Settings().port


def test_kustomization_names_files_that_are_there_and_one_autoscaler() -> None:
    resources = read("kustomization")["resources"]
    assert all((FOLDER / name).is_file() for name in resources)
    assert len([name for name in resources if name.startswith("hpa-")]) == 1
    assert {Path(name).stem for name in resources} <= set(BUILT_IN)
