"""Which tiers may answer a request, its SLO class and its budget, from the names in the request."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rankfleet.core.config import LiveSettings
from rankfleet.core.errors import Forbidden, UnknownModel, quote
from rankfleet.core.experiments import Arm
from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import AUTO, SloClass, Tenant

NO_CLASS, ANYONE, NO_ARM = SloClass(), Tenant(), Arm(weight=1)


@dataclass(frozen=True)
class Target:
    """tiers: those that may answer; never empty.
    pinned: what fixed the one tier, or the cascade, as in `PlanRequest`; None if the planner chooses.
    cascade: as in `PlanRequest`.
    slo: the class that applies. budget_ms: the request's own, else that of the class.
    """

    tiers: tuple[str, ...]
    pinned: Literal["name", "arm", "default"] | None
    slo: SloClass
    slo_name: str | None
    budget_ms: float | None
    cascade: tuple[str, str, int] | None = None

    @property
    def may_be_late(self) -> bool:
        """Whether an answer after the budget is better than none: a tier is named, and its class does not refuse."""
        return self.pinned is not None and self.slo.when_none_fits == "degrade"


def target_of(request: RerankRequest, live: LiveSettings, tiers: Iterable[str], arm: Arm | None = None) -> Target:
    """What a request asks for. arm: of its experiment; None if it is in none.

    The SLO class is the first of these: named by the request, named as its model, given by the arm, the first of its
    tenant's, the default. What experiments and `default_model` choose is not restricted to what the tenant may name.
    Raises UnknownModel for a model or class that this fleet does not have, Forbidden for one that its tenant may not
    name.
    """
    tiers = tuple(tiers)
    tenant = live.tenants.get(request.tenant or "", ANYONE)
    name, slo_name = request.model, request.slo_class
    if name in live.slo_classes:
        slo_name, name = slo_name or name, None
    elif name is not None and name not in (AUTO, *tiers):
        raise UnknownModel(
            f"there is no model {quote(name)}; this fleet has {', '.join([AUTO, *tiers, *live.slo_classes])}, and its "
            "file may name an SLO class like this"
        )
    if slo_name is not None and slo_name not in live.slo_classes:
        raise UnknownModel(
            f"there is no SLO class {quote(slo_name)}; this fleet has {', '.join(live.slo_classes) or 'none'}"
        )
    if slo_name is not None and slo_name not in (tenant.slo_classes or live.slo_classes):
        raise not_allowed(request.tenant, "SLO class", slo_name, tenant.slo_classes)
    if name in tiers and name not in (tenant.tiers or tiers):
        raise not_allowed(request.tenant, "tier", name, [AUTO, *(tenant.tiers or tiers)])
    arm = arm or NO_ARM
    slo_name = slo_name or arm.slo_class or (tenant.slo_classes[0] if tenant.slo_classes else live.default_slo_class)
    slo = live.slo_classes.get(slo_name or "", NO_CLASS)
    budget_ms = slo.slo_ms if request.slo_ms is None else request.slo_ms
    if (fixed := arm.cascade) is not None:
        cascade = (fixed.first, fixed.second, fixed.candidates)
        return Target(arm.named_tiers, "arm", slo, slo_name, budget_ms, cascade)
    if arm.tiers is not None:
        return Target(tuple(arm.tiers), None, slo, slo_name, budget_ms)
    pinned: Literal["name", "arm", "default"] = "name"
    if arm.model is not None:
        name, pinned = arm.model, "arm"
    elif name is None:
        name, pinned = live.default_model, "default"
    if name == AUTO:
        return Target(tuple(name for name in tiers if name in (tenant.tiers or tiers)), None, slo, slo_name, budget_ms)
    return Target((name,), pinned, slo, slo_name, budget_ms)


def not_allowed(tenant: str | None, kind: str, name: str, allowed: Iterable[str] | None) -> Forbidden:
    """The error for a name that the tenant may not use."""
    return Forbidden(f"tenant {tenant} may not name {kind} {quote(name)}; it may name {', '.join(allowed or ())}")
