"""Schemas that are as strict as the API server and the operator: Serve's config, and the RayService CRD."""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from tests.check.conftest import ROOT

# The CustomResourceDefinition of KubeRay, which is no part of this repository.
CRD = Path(os.environ.get("RAYSERVICE_CRD", ROOT.parent / "shared/data/k8s/ray.io_rayservices.crd.yaml.gz"))


def unknown_keys(model: type[BaseModel], data: dict[str, Any], place: str = "") -> Iterator[str]:
    """Keys that the model would drop silently."""
    for key, value in data.items():
        where = f"{place}.{key}".lstrip(".")
        if key not in model.model_fields:
            yield where
            continue
        inner = next(models_in(model.model_fields[key].annotation), None)
        for part in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(part, dict):
                yield from unknown_keys(inner, part, where)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, list):
        for part in get_args(annotation):
            yield from models_in(part)


def ray_service_schema() -> dict[str, Any]:
    """The schema of ray.io/v1 RayService, read from CRD."""
    definition = yaml.load(gzip.decompress(CRD.read_bytes()), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    for known in ("metadata", "apiVersion", "kind"):
        schema["properties"][known].pop("properties", None)
    strict_schema: dict[str, Any] = strict(schema)
    return strict_schema


def strict(schema: Any) -> Any:
    """A CRD's schema as the API server applies it with `--validate=strict`.

    Unknown keys are errors, quantities may be numbers, and a required key with a default may be left out.
    """
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    closed = {key: strict(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields", False)))
        if required := schema.get("required"):
            closed["required"] = [key for key in required if "default" not in properties[key]]
    return closed
