"""Alert rules: the metrics they read exist, and the page says what to do."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private import prom_metrics
from ray.serve._private import deployment_state

from rankfleet.cluster import telemetry
from rankfleet.core.errors import RequestError
from rankfleet.k8s.render import part

ROOT = Path(__file__).parents[2]
POD_MONITOR, (GROUP,) = (
    yaml.safe_load(part("pod-monitor", name="mine", labels="{}")),
    yaml.safe_load(part("alerts", name="mine", labels="{}"))["spec"]["groups"],
)
RULES: list[dict[str, Any]] = GROUP["rules"]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
METRIC = re.compile(r"\b((?:ray|autoscaler)_\w+)(?:\{([^}]*)\})?")
PARTS_OF_HISTOGRAMS = re.compile(r"_(?:bucket|count|sum)$")


def exported() -> set[str]:
    """Names as on the metrics ports: Ray puts `ray_` before those of Rankfleet and Serve."""
    own = re.findall(r'\b(?:Counter|Gauge|Histogram)\(\s*"(\w+)"', inspect.getsource(telemetry))
    serves = re.findall(r'"(serve_\w+)"', inspect.getsource(deployment_state))
    autoscalers = re.findall(r'\b(?:Counter|Gauge)\(\s*"(\w+)"', inspect.getsource(prom_metrics))
    return {f"ray_{name}" for name in own + serves} | {f"autoscaler_{name}" for name in autoscalers}


def test_the_metrics_of_the_sources_are_found() -> None:
    assert {
        "ray_rankfleet_requests_total",
        "ray_rankfleet_request_duration_to_predicted_ratio",
        "ray_rankfleet_backlog_seconds",
        "ray_serve_deployment_status",
        "autoscaler_pending_nodes",
    } <= exported()


@each_rule
def test_rules_read_metrics_that_are_exported(rule: dict[str, Any]) -> None:
    read = {PARTS_OF_HISTOGRAMS.sub("", name) for name, _ in METRIC.findall(rule["expr"])}
    assert read
    assert read <= exported()


@each_rule
def test_rules_read_labels_and_values_that_there_are(rule: dict[str, Any]) -> None:
    source = inspect.getsource(telemetry)
    for name, labels in METRIC.findall(rule["expr"]):
        for label in re.findall(r"(\w+)=", labels) if name.startswith("ray_rankfleet") else ():
            assert label == "le" or f'"{label}"' in source, label
    if codes := re.search(r'code=~"([^"]+)"', rule["expr"]):
        known = {kind.code for kind in RequestError.__subclasses__()}
        assert set(codes[1].split("|")) <= known
    if le := re.search(r'le="([^"]+)"', rule["expr"]):
        assert f"{float(le[1])}," in source, "a boundary of the histogram"


@each_rule
def test_the_page_says_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert "for" in rule or "increase" in rule["expr"], "one bad minute wakes nobody"


def test_prometheus_reads_every_port_that_has_metrics() -> None:
    ports = {endpoint["port"] for endpoint in POD_MONITOR["spec"]["podMetricsEndpoints"]}
    assert ports == {"metrics", "as-metrics", "dash-metrics"}
