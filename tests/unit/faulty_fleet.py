"""A fleet on a virtual clock whose parts can fail: two routers and three groups of workers, as they serve traffic.

Only clients, texts, devices, Serve and the network are fakes. What they do wrong is set from outside, on
`FaultyReplica`, `Link` and `FaultyFleet`.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from rankfleet.core.decisions import Decision, GivenOrder, Plan
from rankfleet.core.errors import RankfleetError, ReplicaLost, ScoringFailed
from rankfleet.core.messages import Chunk, ChunkScores, RerankRequest
from rankfleet.core.sections import SloClass
from rankfleet.core.timing import Timing
from rankfleet.estimates.fusion import Fusion
from rankfleet.estimates.load import OfferedLoad
from rankfleet.router.answer import Answer, ResolvedRequest, TokenizedRequest
from rankfleet.router.fleet import FleetView
from rankfleet.router.fleet_router import FleetRouter
from rankfleet.router.ledger import Ledger
from rankfleet.router.plan_options import PlanRequest
from rankfleet.router.replica_record import Entry
from rankfleet.router.resolve import Target
from rankfleet.router.snapshot import FleetSnapshot
from rankfleet.simulate.virtual_time import VirtualLoop
from tests.unit.faulty_replica import CONFIG, PROFILE, FaultyReplica, NumberedTexts, fingerprint

START_S = 10.0  # until a replica that Serve starts takes work
ROUTER_CLOCK_S = 5000.0  # what the routers' clock shows at first
CLIENT: ContextVar["Client"] = ContextVar("CLIENT")


@dataclass(eq=False)
class Client:
    """One request and what became of it.

    texts: of the request. fusion: None if its candidates are unordered. version: of the fleet by which it was routed.
    decision: the router's; None before it is made. plan: as it was carried out. ended_s: None while it waits. has_left:
    whether the client has gone. is_cut: whether it was sent in several chunks.
    """

    request: PlanRequest
    texts: NumberedTexts
    fusion: Fusion | None = None
    version: int = 0
    task: "asyncio.Task[None] | None" = None
    decision: Decision | None = None
    answer: Answer | None = None
    plan: Plan | GivenOrder | None = None
    error: RankfleetError | None = None
    ended_s: float | None = None
    has_left: bool = False
    is_cut: bool = False


class Link:
    """A router's way to a group, through Serve.

    listed: the replicas that Serve names to this router. before: those that it named before. is_rough: Serve gives
    chunks replicas that were chosen for others, after a pause. faults: choices and losses that should not have been.
    """

    def __init__(self, ledger: Ledger, on_waiting: Callable[[], None], clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.listed: list[FaultyReplica] = []
        self.before: list[FaultyReplica] = []
        self.is_rough = False
        self.faults: list[str] = []
        self.asking: dict[Entry, Client] = {}  # whose chunks are under way
        self._on_waiting, self._clock = on_waiting, clock
        self._available = asyncio.Event()

    def publish(self, replicas: Sequence[FaultyReplica], with_hosts: bool) -> None:
        """Serve names the replicas that take work."""
        self.before, self.listed = self.listed, [*replicas]
        hosts = {replica.name: replica.hosts for replica in replicas} if with_hosts else {}
        self.ledger.update(frozenset(replica.name for replica in replicas), hosts)
        if replicas:
            self._available.set()
        else:
            self._available.clear()

    async def score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        """As `GroupClient` says."""
        client = self.asking[entry] = CLIENT.get()
        client.is_cut = client.is_cut or chunk.request is not None
        try:
            return await self._score(chunk, entry)
        finally:
            del self.asking[entry]

    async def _score(self, chunk: Chunk, entry: Entry) -> ChunkScores:
        while not self.listed:
            self._on_waiting()
            await self._available.wait()
        placed_s, replica = self._clock(), self._choose(entry)
        if self.is_rough:
            await asyncio.sleep(0.02)
            if self.listed:
                replica = self._choose(entry)
                replica = self.listed[self.listed.index(replica) - 1]
                self.ledger.place(entry, replica.name, self._clock())
        try:
            return await replica.answer(chunk)
        except asyncio.CancelledError as error:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise ReplicaLost(f"{replica.name} went away") from error
            self._given_up(chunk, entry, CLIENT.get(), placed_s)
            raise
        except RankfleetError:
            raise
        except Exception as error:
            raise ScoringFailed(str(error)) from error

    def _choose(self, entry: Entry) -> FaultyReplica:
        now_s = self._clock()
        chosen = self.listed[self.ledger.choose(entry, [replica.name for replica in self.listed], now_s)]
        if self.ledger.is_ejected(chosen.name, now_s):
            for other in self.listed:
                hosts = self.ledger.hosts.get(other.name)
                may_host = not entry.models or hosts is None or not hosts.isdisjoint(entry.models)
                if may_host and other.name not in entry.tried and not self.ledger.is_ejected(other.name, now_s):
                    self.faults.append(f"{chosen.name} is ejected and was chosen before {other.name}")
        return chosen

    def _given_up(self, chunk: Chunk, entry: Entry, client: Client, placed_s: float) -> None:
        """The router waits no longer: check that it has waited long enough."""
        now_s, plan = self._clock(), client.decision
        if entry.given_up and now_s - placed_s < 5.0:
            self.faults.append(f"{entry.replica} counts as silent after {now_s - placed_s} s")
        if entry.given_up or client.has_left or not isinstance(plan, Plan) or len(plan.stages) > 1:
            return
        is_alone = not client.is_cut and chunk.slack_ms is not None  # else a sibling may have failed
        if is_alone and now_s < limit_s(client.request) - 1e-3:
            self.faults.append(f"a chunk was given up at {now_s}, before its deadline and grace have passed")


def limit_s(request: PlanRequest) -> float:
    """When an accepted request has ended at the latest, by the routers' clock: a second after its deadline. Infinity
    where it has none, or a pinned tier may be late."""
    if request.budget_ms is None or (request.pinned and request.when_none_fits == "degrade"):
        return float("inf")
    return request.arrived_s + request.budget_ms / 1e3 + 1.0


class RouterProcess:
    """A process of the router: ledgers that all versions of the fleet share, and the version that takes requests."""

    def __init__(self, fleet: "FaultyFleet", is_profiled: bool) -> None:
        self._fleet = fleet
        self.links = {
            group: Link(Ledger(), lambda group=group: fleet.start_later(group), fleet.clock)  # type: ignore[misc]
            for group in CONFIG.groups
        }
        self.ledgers = {group: link.ledger for group, link in self.links.items()}
        self.offered = OfferedLoad.of(CONFIG.groups)
        self.view: FleetView | None = None
        self.version = 1
        self.serve_version(1)
        if is_profiled:
            self.view.use_profile(PROFILE)

    def serve_version(self, version: int) -> None:
        """Route by this version of the fleet file from now on."""
        models = {tier: fingerprint(tier, version) for tier in CONFIG.tiers}
        self.version = version
        self.view = FleetView(CONFIG, self.ledgers, models, self.view)
        self.view.take_over()
        self._router = FleetRouter(
            CONFIG,
            self.view,
            self.links,
            self._fleet.clock,
            models,
            self.offered,
            on_decision=self._on_decision,
            wake=self._fleet.start_later,
        )

    def _on_decision(
        self, request_id: str, request: PlanRequest, snapshot: FleetSnapshot, now_s: float, decision: Decision
    ) -> None:
        CLIENT.get().decision = decision

    async def rank(self, client: Client) -> None:
        """Rank one request, and note what became of it."""
        CLIENT.set(client)
        client.version = self.version
        request = client.request
        slo = SloClass(when_none_fits=request.when_none_fits)
        target = Target(tuple(request.work), request.pinned, slo, None, request.budget_ms)
        resolved = ResolvedRequest(RerankRequest("", []), target, None, request.arrived_s, client.fusion)
        tokenized = TokenizedRequest(resolved, client.texts, request, Timing())
        try:
            client.plan, client.answer = await self._router.route(tokenized)
        except RankfleetError as error:
            client.error = error
        client.ended_s = self._fleet.clock()


class FaultyFleet:
    """Two routers and the replicas of all groups, by name of the group. tasks: all that were ever started."""

    def __init__(self, is_profiled: bool) -> None:
        self.loop = TaskKeepingLoop()  # type: ignore[abstract]
        self.tasks = self.loop.tasks
        self.replicas: dict[str, list[FaultyReplica]] = {group: [] for group in CONFIG.groups}
        self.all_replicas: list[FaultyReplica] = []
        self.can_start = True
        self._starting: set[str] = set()
        self.routers = [RouterProcess(self, is_profiled) for _ in range(2)]

    def clock(self) -> float:
        """Seconds of the routers' clock."""
        return ROUTER_CLOCK_S + self.loop.time()

    def start(
        self,
        group: str,
        versions: Sequence[int] = (1, 2),
        precision: str = "a",
        clock_offset_s: float = 0.0,
        clock_rate: float = 1.0,
    ) -> FaultyReplica:
        """Start a replica; no router knows of it yet."""
        name = f"{group}-{len(self.all_replicas)}"
        tiers = CONFIG.groups[group].tiers
        replica = FaultyReplica(name, tiers, self.loop, versions, precision, clock_offset_s, clock_rate)
        self.replicas[group].append(replica)
        self.all_replicas.append(replica)
        return replica

    def start_later(self, group: str) -> None:
        """Serve starts a replica, if it can, since a call waits."""
        if group not in self._starting and self.can_start:
            self._starting.add(group)
            self.loop.call_later(START_S, self._started, group)

    def _started(self, group: str) -> None:
        self._starting.discard(group)
        self.start(group)
        for router in self.routers:
            self.publish(router, group, with_hosts=True)

    def publish(self, router: RouterProcess, group: str, with_hosts: bool) -> None:
        """Serve tells a router which replicas of a group take work."""
        self.replicas[group] = [replica for replica in self.replicas[group] if not replica.is_gone]
        router.links[group].publish(self.replicas[group], with_hosts)

    def submit(
        self, router: RouterProcess, request: PlanRequest, texts: NumberedTexts, fusion: Fusion | None = None
    ) -> Client:
        """A client sends a request."""
        client = Client(request, texts, fusion)
        client.task = self.loop.create_task(router.rank(client))
        return client

    def run_for(self, seconds: float) -> None:
        """Let time pass. Raises what a task has raised that nobody waited for."""
        self.loop.run_until_complete(asyncio.sleep(seconds))


class TaskKeepingLoop(VirtualLoop):
    """Keeps all tasks, to tell whether one failed unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[asyncio.Task[object]] = []

    def create_task(self, coro, **options):  # type: ignore[no-untyped-def]
        task = super().create_task(coro, **options)
        self.tasks.append(task)
        return task
