"""Prometheus and Grafana ask for what the server says: every metric and label is looked up in its own registry."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from serve.batcher import BatchReport
from serve.monitoring.gpu_figures import GpuState
from serve.monitoring.metrics import STAGES, Metrics, ModelState
from tests.docker.compose_model import project
from tests.docker.dockerfile import ROOT

GRAFANA = ROOT / "docker" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "skipvit.json").read_text())
ADAPTER = yaml.safe_load((ROOT / "docker" / "k8s" / "prometheus-adapter.yaml").read_text())
# What Prometheus adds to each sample, where the adapter's comment asks for it.
FROM_PROMETHEUS = {"instance", "job", "namespace", "pod"}


def exposed() -> dict[str, set[str]]:
    """Names of all samples that a server answers at /metrics, with their labels."""
    metrics = Metrics()
    metrics.watch_models(lambda: [ModelState("shades", "1", True, 0)])
    metrics.watch_decoding(lambda: 0)
    metrics.request("shades", "1", "/v1/classify", "ok")
    metrics.batch("shades", BatchReport(size=1, reason="idle"))
    metrics.tiles("shades", 4)
    metrics.rejected("overloaded")
    metrics.loaded("shades", "ok")
    metrics.watch_groups(lambda: [("shades", 0)])
    metrics.group_request("shades", "fast")
    metrics.group_step("shades", "down")
    metrics.cancelled("queue")
    metrics.gpus = [GpuState(0, "GPU", 1, 2, 0.5, 40.0)]
    for stage in STAGES:
        metrics.stage(stage, 0.001, "shades")
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) | FROM_PROMETHEUS for sample in samples}


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for rule in ADAPTER["rules"]["custom"]:
        yield rule["seriesQuery"]
        yield re.sub(r"<<\.\w+>>", "", rule["metricsQuery"])


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of a PromQL expression, with the labels that it selects each by or groups it by."""
    groups = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(",")}
    for name, selector in re.findall(r"\b((?:skipvit|process|python)_\w+)(?:\{([^}]*)\})?", expression):
        yield name, (groups | set(re.findall(r"(\w+)[!=]", selector))) - {""}


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_metrics_and_labels_exist(expression: str) -> None:
    known = exposed()
    found = list(asked(expression))
    assert found
    for name, labels in found:
        assert labels <= known[name]


def test_reading_of_expressions() -> None:
    text = 'sum by (model, le) (rate(skipvit_a_bucket{stage!="x",b=~"$y"}[1m])) / skipvit_b'
    assert list(asked(text)) == [
        ("skipvit_a_bucket", {"model", "le", "stage", "b"}),
        ("skipvit_b", {"model", "le"}),
    ]


def test_stages_that_panels_name_exist() -> None:
    named = {stage for expression in expressions() for stage in re.findall(r'stage!?="(\w+)"', expression)}
    assert named
    assert named <= set(STAGES)


def test_panels_do_not_overlap_and_have_their_own_ids() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & cells
        assert at["x"] + at["w"] <= 24
        cells |= covered
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    services = project({})["services"]
    host, port = re.fullmatch(r"http://([\w-]+):(\d+)", sources[0]["url"]).groups()  # type: ignore[union-attr]
    assert services[host]["ports"][0].endswith(f":{port}")
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {sources[0]["uid"]}
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    providers = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "skipvit.yaml").read_text())["providers"]
    assert mounts["./docker/grafana/dashboards"] == providers[0]["options"]["path"]
    assert mounts["./docker/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{providers[0]['options']['path']}/skipvit.json"


def test_prometheus_scrapes_the_services_and_reads_its_file() -> None:
    config = yaml.safe_load((ROOT / "docker" / "prometheus.yaml").read_text())
    services = project({})["services"]
    discovery = config["scrape_configs"][0]["dns_sd_configs"][0]
    for name in discovery["names"]:
        assert services[name]["ports"][0].endswith(f":{discovery['port']}")
    mounts = dict(volume.split(":")[:2] for volume in services["prometheus"]["volumes"])
    assert f"--config.file={mounts['./docker/prometheus.yaml']}" in services["prometheus"]["command"]
