"""What another tier would have answered, compared with the answer: behind all other work, and given up first."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Literal

import numpy as np

from rankfleet.core.errors import RankfleetError
from rankfleet.core.events import MAX_RANKED, ShadowEvent
from rankfleet.core.messages import Assignment, RankedDocument, Ranking, RerankRequest
from rankfleet.core.quiet import quietly
from rankfleet.router.events import plan_text

TOP = 10  # results that a person looks at
DELAY_S = 0.01  # so that the answer has left before its shadow is begun
GIVEN_UP_S = 10.0
# Of a device's time, for each router, at most. Without it a tenant could keep a device busy by three requests a second
# at no cost to its share.
SHARE = 0.1

Outcome = Literal["compared", "dropped", "failed"]
OnShadow = Callable[[Outcome, ShadowEvent | None], None]

log = logging.getLogger("ray.serve")


class Shadows:
    """The comparisons of one router: one at a time, for SHARE of a device's time, begun only while no request is under
    way in it. What is on a device cannot be interrupted, and the router's own time is short where requests are many."""

    def __init__(
        self,
        rank: Callable[[RerankRequest, Assignment], Awaitable[Ranking]],
        is_idle: Callable[[], bool],
        on_shadow: OnShadow,
        clock: Callable[[], float],
    ) -> None:
        """rank: ranks a request as an arm says, behind all other work. is_idle: whether no request is under way.
        on_shadow: called with the outcome, and with the event if something was compared. clock: seconds."""
        self._rank = rank
        self._is_idle = is_idle
        self._tell = quietly(on_shadow)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._next_s = -math.inf

    def follow(self, request: RerankRequest, answer: Ranking, assignment: Assignment, at_s: float) -> None:
        """Compare an answer with the arm's, later. at_s: as in `ShadowEvent`.

        Nothing is compared for an answer without scores, for one of that very tier, and for several queries.
        """
        if not answer.stages or request.queries or assignment.settings.model == answer.plan.tier:
            return
        if (self._task is not None and not self._task.done()) or self._clock() < self._next_s:
            self._tell("dropped", None)
            return
        self._task = asyncio.create_task(self._compare(request, answer, assignment, at_s))

    async def _compare(self, request: RerankRequest, answer: Ranking, assignment: Assignment, at_s: float) -> None:
        await asyncio.sleep(DELAY_S)
        if not self._is_idle():
            self._tell("dropped", None)
            return
        began_s = self._clock()
        took_s: float | None = None
        try:
            async with asyncio.timeout(GIVEN_UP_S):
                other = await self._rank(request, assignment)
            took_s = device_s(other)
        except (RankfleetError, TimeoutError):  # no time for it
            self._tell("dropped", None)
            return
        except Exception:
            log.exception("request %s could not be compared with arm %s", request.request_id, assignment.arm)
            self._tell("failed", None)
            return
        finally:
            now_s = self._clock()
            self._next_s = now_s + (now_s - began_s if took_s is None else took_s) * (1 / SHARE - 1)
        if other.stages:
            self._tell("compared", event_of(request, answer, other, assignment, at_s))


def device_s(ranking: Ranking) -> float:
    """Seconds of devices that it took: of its longest chunk as measured, or of all as predicted, if that is more."""
    unloaded = ranking.plan.unloaded
    predicted_ms = sum(ms for _, ms in unloaded.work_ms) if unloaded is not None else 0.0
    return max(ranking.timing.ms["infer"], predicted_ms) / 1e3


def event_of(
    request: RerankRequest, answer: Ranking, other: Ranking, assignment: Assignment, at_s: float
) -> ShadowEvent:
    """other: the arm's answer, with all documents."""
    return ShadowEvent(
        at_s=at_s,
        request_id=request.request_id,
        tenant=request.tenant,
        experiment=assignment.experiment,
        arm=assignment.arm,
        step=assignment.step,
        unit=assignment.unit,
        tier=answer.stages[-1].tier,
        shadow_tier=other.stages[-1].tier,
        plan=plan_text(other.plan),
        total_ms=other.timing.total_ms,
        overlap=overlap(answer.documents, other.documents),
        tau=kendall_tau(answer.documents, other.documents),
        drift=drift(answer.documents, other.documents),
    )


def overlap(one: list[RankedDocument], other: list[RankedDocument]) -> float:
    """Share of the first TOP documents of `one` that are among as many of `other`."""
    count = min(TOP, len(one))
    first = {document.index for document in one[:count]}
    return len(first & {document.index for document in other[:count]}) / count if count else 1.0


def kendall_tau(one: list[RankedDocument], other: list[RankedDocument]) -> float | None:
    """Kendall's τ of the first MAX_RANKED documents of `one`: pairs that both put into the same order less those that
    they do not, ÷ all pairs. None of fewer than two documents."""
    place_of = {document.index: place for place, document in enumerate(other)}
    places = np.array([place_of[document.index] for document in one[:MAX_RANKED]])
    if len(places) < 2:
        return None
    later = np.triu(np.sign(places[None, :] - places[:, None]), 1)
    return float(later.sum() / (len(places) * (len(places) - 1) / 2))


def drift(one: list[RankedDocument], other: list[RankedDocument]) -> float | None:
    """Mean of the relevance in `other` less that in `one`, over the documents that both scored; None if there are
    none."""
    relevance = {document.index: document.relevance for document in other if document.logit is not None}
    differences = [
        relevance[document.index] - document.relevance
        for document in one
        if document.logit is not None and document.index in relevance
    ]
    return float(np.mean(differences)) if differences else None
