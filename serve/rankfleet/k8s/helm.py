"""A Helm chart of one fleet: the objects of its Kustomize overlay, where values stand in for what a cluster decides.

The chart's values are the fleet file, under `fleet`, and some keys of the cluster file. Live settings of the fleet file
may be changed in the values. A change of the others would need other pods, so that the chart refuses it and says how to
render it anew.
"""

import copy
import json
import re
from typing import Any

import yaml

from rankfleet import __version__
from rankfleet.cluster.deployment_options import ROUTER
from rankfleet.core.config import LiveSettings
from rankfleet.k8s.cluster_file import ClusterFile
from rankfleet.k8s.render import Rendering, monitoring, part, redis
from rankfleet.k8s.yaml_text import to_yaml

# Files of the overlay that a value turns on, with the names that its values fill in.
OPTIONAL = {
    "monitoring": (),
    "ingress": ("class_name", "host", "tls_secret"),
    "route": ("gateway", "gateway_namespace", "host"),
}
PULL_SECRETS = "[{{ range .Values.image_pull_secrets }}{name: {{ . | quote }}},{{ end }}]"
LABELS = "@@labels@@"
SLOT = re.compile(r"^( *)(- )?(\w+): '?@@(.+?)@@'?\n", re.MULTILINE)


def chart(rendering: Rendering, cluster: ClusterFile, command: str) -> dict[str, str]:
    """Texts by path inside the chart's folder. `command`: the one that renders it."""
    fleet = rendering.fleet.model_dump(mode="json")
    pinned = {key: value for key, value in fleet.items() if key not in LiveSettings.model_fields or key == "keys"}
    about = {
        "apiVersion": "v2",
        "name": cluster.name,
        "version": __version__,
        "appVersion": __version__,
        "description": "A Rankfleet on KubeRay, rendered from a fleet file",
        "kubeVersion": ">=1.29.0-0",
    }
    texts = {
        "Chart.yaml": to_yaml(about),
        "values.yaml": VALUES_HEADER.format(command=command) + to_yaml(values(rendering, cluster, fleet)),
        "values.schema.json": json.dumps(schema(), indent=2) + "\n",
        "files/pinned.json": json.dumps(pinned, indent=1) + "\n",
        "templates/check.yaml": CHECK.format(quoted=json.dumps(command)),
        "templates/rayservice.yaml": service_template(rendering.service),
    }
    for name, text in (rendering.base | rendering.overlay).items():
        if name not in ("rayservice.yaml", "redis.yaml") and name.removesuffix(".yaml") not in OPTIONAL:
            texts[f"templates/{name}"] = escape(text)
    if cluster.redis:
        texts["templates/redis.yaml"] = redis(cluster, PULL_SECRETS)
    rules = escape(monitoring(cluster.name, LABELS)).replace(LABELS, "{{ toJson .Values.monitoring_labels }}")
    texts["templates/monitoring.yaml"] = f"{{{{- if .Values.monitoring }}}}\n{rules}{{{{- end }}}}\n"
    for key in ("ingress", "route"):
        slots = {field: f"{{{{ .Values.{key}.{field} | quote }}}}" for field in OPTIONAL[key]}
        slots["annotations"] = f"{{{{ toJson .Values.{key}.annotations }}}}"
        body = part(key, name=cluster.name, **slots)
        texts[f"templates/{key}.yaml"] = f"{{{{- if .Values.{key} }}}}\n{body}{{{{- end }}}}\n"
    return texts


VALUES_HEADER = """\
# fleet: the fleet file. Its live settings (SLO classes, experiments, tenants, autoscaling, default_model, ...) may be
# changed here or with --set. For anything else change the fleet file and run
#   {command}
# The other keys are those of the cluster file: docs/kubernetes.md.
"""
CHECK = """\
{{{{- $pinned := .Files.Get "files/pinned.json" | fromJson }}}}
{{{{- range $key, $value := .Values.fleet }}}}
{{{{- if hasKey $pinned $key }}}}
{{{{- if ne (toJson $value) (toJson (get $pinned $key)) }}}}
{{{{- fail (printf "fleet.%s decides on pods: change it in the fleet file and run %s" $key {quoted}) }}}}
{{{{- end }}}}
{{{{- end }}}}
{{{{- end }}}}
"""


def values(rendering: Rendering, cluster: ClusterFile, fleet: dict[str, Any]) -> dict[str, Any]:
    """The chart's values: what the Kustomize overlay has."""
    groups = rendering.service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    settings = cluster.model_dump(mode="json", include={"image", "image_pull_secrets", "monitoring_labels", *OPTIONAL})
    return settings | {"pools": {group["groupName"]: pool_values(group) for group in groups}, "fleet": fleet}


def pool_values(group: dict[str, Any]) -> dict[str, Any]:
    spec = group["template"]["spec"]
    return {
        "node_selector": spec.get("nodeSelector", {}),
        "tolerations": spec.get("tolerations", []),
        "memory": spec["containers"][0]["resources"]["limits"]["memory"],
    }


def schema() -> dict[str, Any]:
    """JSON schema of the values: Helm refuses a key that no template reads."""
    text = {"type": "string"}
    pool = {"node_selector": {"type": "object"}, "tolerations": {"type": "array"}, "memory": text}

    def closed(properties: dict[str, Any], kind: Any = "object") -> dict[str, Any]:
        return {"type": kind, "additionalProperties": False, "properties": properties}

    maybe, texts = ["object", "null"], {"type": "object", "additionalProperties": text}
    properties = {
        "image": text,
        "image_pull_secrets": {"type": "array", "items": text},
        "monitoring": {"type": "boolean"},
        "monitoring_labels": texts,
        "ingress": closed(dict.fromkeys(OPTIONAL["ingress"], text) | {"annotations": texts}, maybe),
        "route": closed(dict.fromkeys(OPTIONAL["route"], text), maybe),
        "pools": {"type": "object", "additionalProperties": closed(pool)},
        "fleet": {"type": "object"},
        "global": {"type": "object"},
    }
    return {"$schema": "https://json-schema.org/draft-07/schema#"} | closed(properties)


def service_template(service: dict[str, Any]) -> str:
    """The RayService with slots for values."""
    service = copy.deepcopy(service)
    spec = service["spec"]
    serve_config = yaml.safe_load(spec["serveConfigV2"])
    for deployment in serve_config["applications"][0]["deployments"]:
        if deployment["name"] == ROUTER:
            deployment["user_config"] = "@@.Values.fleet@@"
    spec["serveConfigV2"] = to_yaml(serve_config)
    ray_cluster = spec["rayClusterConfig"]
    for group in (ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        pod["imagePullSecrets"] = "@@secrets@@"
        pod["containers"][0]["image"] = "@@.Values.image@@"
        if name := group.get("groupName"):
            pool = f'(index .Values.pools "{name}")'
            pod["nodeSelector"] = f"@@{pool}.node_selector@@"
            pod["tolerations"] = f"@@{pool}.tolerations@@"
            for amounts in pod["containers"][0]["resources"].values():
                amounts["memory"] = f"@@{pool}.memory@@"
    return SLOT.sub(filled, escape(to_yaml(service)))


def filled(slot: re.Match[str]) -> str:
    """The template's lines for one slot. Nothing is written for what is empty."""
    indent, dash, key, value = slot[1], slot[2] or "", slot[3], slot[4]
    if value == "secrets":
        names = f"{{{{- range .Values.image_pull_secrets }}}}\n{indent}- name: {{{{ . | quote }}}}\n{{{{- end }}}}\n"
        return f"{{{{- if .Values.image_pull_secrets }}}}\n{indent}{key}:\n{names}{{{{- end }}}}\n"
    return f"{{{{- with {value} }}}}\n{indent}{dash}{key}: {{{{ toJson . }}}}\n{{{{- end }}}}\n"


def escape(text: str) -> str:
    """A text that Helm leaves as it is."""
    return text.replace("{{", "{{ `{{` }}")
