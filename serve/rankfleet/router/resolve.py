"""Which tiers may answer a request, its SLO class and its budget, from the names in the request."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rankfleet.core.config import LiveSettings
from rankfleet.core.errors import UnknownModel, quote
from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import AUTO, SloClass

NO_CLASS = SloClass()


@dataclass(frozen=True)
class Target:
    """tiers: those that may answer; never empty.
    pinned: what fixed the one tier, as in `PlanRequest`; None if the planner chooses.
    slo: the class that applies. budget_ms: the request's own, else that of the class.
    """

    tiers: tuple[str, ...]
    pinned: Literal["name", "arm", "default"] | None
    slo: SloClass
    slo_name: str | None
    budget_ms: float | None


def target_of(request: RerankRequest, live: LiveSettings, tiers: Iterable[str], arm_model: str | None) -> Target:
    """What a request asks for. arm_model: the model of its experiment's arm; None if it is in no experiment.

    The SLO class is the first of these: named by the request, named as its model, given by its API key, the default.
    Raises UnknownModel for a model or class that this fleet does not have.
    """
    tiers = tuple(tiers)
    name, pinned = request.model, "name"
    slo_name = request.slo_class
    if name in live.slo_classes:
        slo_name, name = slo_name or name, None
    if slo_name is not None and slo_name not in live.slo_classes:
        raise UnknownModel(
            f"there is no SLO class {quote(slo_name)}; this fleet has {', '.join(live.slo_classes) or 'none'}"
        )
    slo_name = slo_name or class_of_key(request.api_key, live) or live.default_slo_class
    slo = live.slo_classes.get(slo_name or "", NO_CLASS)
    budget_ms = slo.slo_ms if request.slo_ms is None else request.slo_ms
    if arm_model is not None:
        name, pinned = arm_model, "arm"
    elif name is None:
        name, pinned = live.default_model, "default"
    if name == AUTO:
        return Target(tiers, None, slo, slo_name, budget_ms)
    if name in tiers:
        return Target((name,), pinned, slo, slo_name, budget_ms)  # type: ignore[arg-type]
    raise UnknownModel(
        f"there is no model {quote(name)}; this fleet has {', '.join([AUTO, *tiers, *live.slo_classes])}"
    )


def class_of_key(api_key: str | None, live: LiveSettings) -> str | None:
    """The SLO class whose `api_key_sha256` lists this key."""
    if api_key is None:
        return None
    digest = hashlib.sha256(api_key.encode()).hexdigest()
    return next((name for name, slo in live.slo_classes.items() if digest in slo.api_key_sha256), None)
