"""What the replies of all dialects but the native one have in common: plan and reason in headers."""

import math
from typing import Any

from rankfleet.api.dialects.dialect import Reply
from rankfleet.api.dialects.native_replies import server_timing
from rankfleet.core.messages import Ranking
from rankfleet.core.sections import UNSCORED


def reply_with_plan(content: Any, ranking: Ranking) -> Reply:
    """A reply with plan and reason in its headers."""
    return Reply(content, plan_headers(ranking))


def plan_headers(ranking: Ranking) -> dict[str, str]:
    """How the ranking came about, as `rankfleet` of a native reply says it (docs/api.md)."""
    plan = ranking.plan
    facts: dict[str, Any] = {
        "tier": plan.tier or UNSCORED,
        "plan": ", ".join(f"{stage.tier};candidates={stage.candidates}" for stage in ranking.stages) or UNSCORED,
        "reason": one_line(plan.reason),
        "quality": f"{plan.quality:.5g}",
        "predicted-ms": f"{plan.predicted_ms:.2f}" if math.isfinite(plan.predicted_ms) else None,
        "budget-ms": None if plan.budget_ms is None else f"{plan.budget_ms:g}",
        "met": None if ranking.met is None else str(ranking.met).lower(),
        "fusion": None if (fused := ranking.fused) is None else f"{fused.by};weight={fused.weight:g}",
        "degraded": None if plan.degraded is None else one_line(plan.degraded),
        "tokens": str(ranking.tokens),
        "truncated": str(len(ranking.truncated)),
    }
    headers = {f"x-rankfleet-{name}": fact for name, fact in facts.items() if fact is not None}
    return headers | {"Server-Timing": server_timing(ranking.timing)}


def one_line(text: str) -> str:
    """Text that fits into a header."""
    return " ".join(text.split()).encode("ascii", "replace").decode()
