"""Figures of fleets that ran: docs/batching.md, docs/faults.md, and live figures of docs/routing.md and
autoscaling.md."""

import itertools
from collections.abc import Callable
from typing import Any

from benchmarks.figures.stored import by_processor, conditions, stored, versions
from benchmarks.paths import RESULTS

from rankfleet.bench.tables import Column, markdown

ARRIVALS = {"even": "every 10 ms", "random": "Poisson"}
COLLECTORS = {
    "short": "`@serve.batch`, wait 5 ms",
    "long": "`@serve.batch`, wait 100 ms",
    "queue": "`@serve.batch`, wait 0, and the queue",
}
OUTCOMES = (
    *(Column(key) for key in ("requests", "ok", "refused", "failed", "late", "unscored")),
    Column("p50_ms", ".0f"),
    Column("p99_ms", ".0f"),
    Column("rate_per_s", ".1f", "sent/s"),
)

# What the simulator has to get right: title, scale, digits, and the bound on live − simulated.
COMPARED = {"attainment": ("in time, %", 100, 2, 5), "mean_quality": ("mean nDCG@10", 1, 4, 0.01)}


def batching() -> str:
    figures = stored("batching")
    rows = []
    for arrivals, collector in itertools.product(ARRIVALS, COLLECTORS):
        row = figures["median"][f"{arrivals} {collector}"]
        cells = (f"{row[key]:g}" for key in ("batches", "mean_size", "p50_ms", "p99_ms", "idle_ms"))
        rows.append([ARRIVALS[arrivals], COLLECTORS[collector], *cells])
    header = ["arrivals", "collector", "batches", "mean size", "p50 ms", "p99 ms", "one request, idle device, ms"]
    caption = conditions(figures["measured"], f"median of {figures['rounds']} rounds", versions(figures["measured"]))
    return f"{markdown(header, rows, left=2)}\n\n{caption}."


def spread() -> str:
    figures = stored("spread")
    rows = []
    for case, row in figures["placed by work"].items():
        other = figures["placed by Serve"][case]["ratio"]
        rows.append([case, f"{row['one_ms']:.0f}", f"{row['two_ms']:.0f}", f"{row['ratio']:.2f}", f"{other:.2f}"])
    header = ["tier, tokens per pair", "one replica, ms", "two, ms", "ratio", "ratio with Serve's own router"]
    return f"{markdown(header, rows)}\n\n{conditions(figures['measured'])}, median of {figures['rounds']} rounds."


def slo() -> str:
    """For every processor a table of budgets and sizes, met and used."""
    return "\n\n".join(slo_table(figures) for _, figures in by_processor("slo"))


def slo_table(figures: dict[str, Any]) -> str:
    quiet, busy = (figures["conditions"][name] for name in ("quiet", "one core busy"))
    rows = []
    for name, cell in quiet["cells"].items():
        used = "" if cell["used"] is None else f"{cell['used']:.0%}"
        took = f"{cell['p50_ms']:.0f} / {cell['p99_ms']:.0f}"
        late = f"{busy['cells'][name]['met']:.0%}"
        rows.append([name, f"{cell['met']:.0%}", used, f"{cell['unscored']}", took, f"{cell['quality']:.3f}", late])
    rows.append(["all", f"{quiet['met']:.1%}", "", "", "", "", f"{busy['met']:.1%}"])
    header = ["", "met", "budget used", "in the order given", "p50 / p99 ms", "quality", "met with one core busy"]
    steps = ", ".join(f"{step} {ms:.1f}" for step, ms in quiet["steps_p50_ms"].items() if ms)
    cold = figures["conditions"]["cold"]
    caption = conditions(figures["measured"], f"{figures['each']} requests of each size and budget, one client")
    return (
        f"{markdown(header, rows)}\n\n{caption}. Cold: {cold['met']:.0%} of the first {cold['requests']} requests met. "
        f"Medians on the quiet machine in ms: {steps}; between client and router {quiet['outside_p50_ms']:.1f}."
    )


def bare_serve() -> str:
    figures = stored("bare_serve")
    rows = []
    for tier, name in itertools.product(figures["rankfleet"], ("bare", "rankfleet")):
        one, eight = (figures[name][tier][clients] for clients in ("1", "8"))
        beside = f"{one['with_queue_p50_ms']:.1f} / {one['with_queue_p95_ms']:.1f}"
        rows.append([tier, name, beside, f"{(eight['requests'] + figures['warm_up_calls']) / figures['seconds']:.0f}"])
    header = ["tier", "", "one client: time outside the engine, p50 / p95 ms", "eight clients, requests/s"]
    caption = conditions(figures["measured"], f"median of {figures['rounds']} rounds")
    return f"{markdown(header, rows, left=2)}\n\n{caption}."


def in_router() -> str:
    """For every processor a table of both layouts."""
    return "\n\n".join(layouts(figures) for _, figures in by_processor("in_router"))


def layouts(figures: dict[str, Any]) -> str:
    rows = []
    for tier, clients in itertools.product(figures["in_router"], ("1", "8")):
        both = (figures[name][tier][clients] for name in ("replicas", "in_router"))
        rows.append([tier, clients, *(f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f}" for row in both)])
    header = ["tier", "clients", "group with a replica: overhead, p50 / p95 ms", "group in the router, p50 / p95 ms"]
    caption = conditions(figures["measured"], f"median of {figures['rounds']} rounds")
    return f"{markdown(header, rows)}\n\n{caption}."


def tenants() -> str:
    """For every processor a table of what a neighbour's load costs a client."""
    return "\n\n".join(beside_neighbours(figures) for _, figures in by_processor("tenants"))


def beside_neighbours(figures: dict[str, Any]) -> str:
    rows = []
    for load, row in figures["loads"].items():
        alone, beside = (row["before"], row["after"]), row["beside"]
        tiers = (", ".join(f"{tier} {n}" for tier, n in part["tiers"].items()) for part in (row["before"], beside))
        rows.append(
            [
                load,
                f"{row['neighbour_per_s']:.1f}",
                f"{min(part['met'] for part in alone):.0%}",
                f"{beside['met']:.0%}",
                f"{beside['late_ms']:.0f}" if beside["late"] else "",
                f"{beside['refused']}" if beside["refused"] else "",
                *tiers,
            ]
        )
    header = ["the neighbour sends", "per second", "met alone", "met beside it", "latest by, ms", "refused"]
    header += ["tiers alone", "tiers beside it"]
    each = next(iter(figures["loads"].values()))["beside"]["requests"]
    more = f"{each} requests of 5 documents in {figures['budget_ms']:.0f} ms for each load, and for each control"
    return f"{markdown(header, rows)}\n\n{conditions(figures['measured'], more)}."


def cost_beside_bare_serve() -> str:
    """What the stack adds to a bare application with one client, at the median, over the tiers."""
    figures = stored("bare_serve")
    added = (
        figures["rankfleet"][tier]["1"]["with_queue_p50_ms"] - figures["bare"][tier]["1"]["with_queue_p50_ms"]
        for tier in figures["rankfleet"]
    )
    return f"{max(added):.1f} ms"


def overhead() -> str:
    figures = stored("serve")
    rows = []
    for tier, by_clients in figures["overhead_ms"].items():
        for clients, row in by_clients.items():
            own = f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f}"
            waited = f"{row['with_queue_p50_ms']:.1f} / {row['with_queue_p95_ms']:.1f}"
            rows.append([tier, clients, f"{row['engine_p50_ms']:.1f}", own, waited])
    header = [
        "tier",
        "clients",
        "engine, p50 ms",
        "overhead, p50 / p95 ms",
        "with the wait in the queue, p50 / p95 ms",
    ]
    return f"{markdown(header, rows)}\n\n{conditions(figures['measured'])}."


def saturation() -> str:
    figures = stored("serve")["saturation"]
    rows = [
        [size, f"{row['engine_pairs_per_s']:.0f}", f"{row['stack_pairs_per_s']:.0f}", f"{row['ratio']:.2f}"]
        for size, row in figures.items()
        if isinstance(row, dict)
    ]
    header = [f"at saturation, tier {figures['tier']}", "engine alone, pairs/s", "the whole stack, pairs/s", "ratio"]
    return markdown(header, rows)


def faults() -> str:
    """For every processor the scenarios, overload and memory, with their conditions."""
    return "\n\n".join(faults_on(stored(f"faults/{each.stem}")) for each in sorted((RESULTS / "faults").iterdir()))


def faults_on(figures: dict[str, Any]) -> str:
    scenarios = {name: row for name, row in figures.items() if "what" in row}
    rows = [[f"`{name}`", row["what"], *(c.cell(row) for c in OUTCOMES)] for name, row in scenarios.items()]
    measured, calm = figures["measured"], figures["calm"]
    soaks = [figures["soak"]] if "soak" in figures else []
    dates = ", ".join(sorted({row["measured"]["date"] for row in [*scenarios.values(), *soaks]}))
    replicas = ", ".join(f"{count} of {name}" for name, count in calm["settings"]["replicas"].items())
    return "\n\n".join(
        [
            markdown(["scenario", "what", *(c.header for c in OUTCOMES)], rows, left=2),
            f"Budgets: {budgets(calm)}{of_capacity(calm)}. Late: answered after the budget as the client sees it. "
            "Unscored: in the order given, since the budget had ended.",
            overload(figures["overload"]),
            *map(memory, soaks),
            f"{measured['machine']}, {versions(measured)}, {dates}; replicas: {replicas}. The load generator and the "
            "start of every new replica take time from the same cores, which shows most in the latencies.",
        ]
    )


def budgets(row: dict[str, Any]) -> str:
    """`standard 2,000 ms, batch none`."""
    return ", ".join(f"{name} {f'{ms:,.0f} ms' if ms else 'none'}" for name, ms in row["budgets_ms"].items())


def of_capacity(row: dict[str, Any]) -> str:
    """What the budgets are in proportion to, where it was measured."""
    capacity = row.get("capacity_per_s")
    return f", by a measured capacity of {capacity:.1f} requests per second" if capacity else ""


def overload(row: dict[str, Any]) -> str:
    again, server_ms = row["normal_again_s"], row.get("refused_server_p99_ms")
    ended = "did not return to normal" if again is None else f"was normal again {again:.1f} s after the load ended"
    by_server = ""
    if server_ms is not None:
        by_server = (
            f"; by the server's own clock {row['refused_server_p50_ms']:.1f} ms at the median and {server_ms:.1f} ms "
            f"at the 99th percentile. {row['given_up']} more were accepted, and given up when their budgets ended in a "
            "queue"
        )
    return (
        f"Overload, with a budget of {budgets(row)}{of_capacity(row)}: the peak of goodput was "
        f"{row['peak_goodput_per_s']:.1f} requests per second; at five times that load it was "
        f"{row['goodput_per_s']:.1f} ({row['goodput_share']:.0%}). Refusals took {row['refused_p50_ms']:.0f} ms "
        f"at the median, {row['refused_p90_ms']:.0f} ms at the 90th and {row['refused_p99_ms']:.0f} ms at the 99th "
        f"percentile, as clients saw them{by_server}. Latency {ended}; normal is within 1.5 times the calm 99th "
        f"percentile, {row['calm_p99_ms']:.0f} ms."
    )


def memory(row: dict[str, Any]) -> str:
    columns = (Column("first_mib", ".0f"), Column("last_mib", ".0f"), Column("growth", "+.1%"))
    rows = [[name.split()[0], *(c.cell(process) for c in columns)] for name, process in row["processes"].items()]
    return (
        f"Memory: over {row['minutes']:g} minutes at {row['load']:.0%} of the fleet's capacity "
        f"({row['rate_per_s']:.1f} requests per second), the fastest-growing process grew by {row['max_growth']:.1%} "
        f"after the first {row['warm_s']} s; {row['requests']} requests, {row['failed']} failed.\n\n"
        + markdown(["process", "MiB at first", "at last", "growth"], rows)
    )


def autoscaling_live() -> str:
    """This policy and Ray Serve's default one on a local cluster."""
    figures = stored("autoscaling_live")
    measured, (before_s, loaded_s, _) = figures["measured"], figures["seconds"]
    rows = []
    for policy in ("need", "ray"):
        run = figures[policy]
        first_seen = {int(count): at for at, count, _ in reversed(run["replicas"])}
        changes = ", ".join(f"{n} from {at - before_s:+.1f} s" for n, at in sorted(first_seen.items()) if n > 1) or "1"
        rows.append(
            [
                f"`{policy}`",
                changes,
                f"{run['rate']:g}",
                f"{run['attainment']:.2%}",
                f"{run['mean_quality']:.4f}",
                f"{run['first_half']['p99_ms']:.0f}",
                f"{run['second_half']['p99_ms']:.0f}",
            ]
        )
    header = ["policy", "replicas, from", "requests/s", "in time", "mean nDCG@10", "p99 ms, first half", "second half"]
    return (
        "Live (`benchmarks/autoscaling_live.py`): demo tiers on a local cluster of two nodes with fake GPUs, "
        f"{conditions(measured, versions(measured))}; 20 or 40 documents of about 64 tokens, budgets of 200 and "
        f"1,000 ms; a quarter of the load for {before_s:.0f} s, then {loaded_s:.0f} s of about 1.3 times what one "
        "replica can do at the tiers of an unloaded plan; 1 to 2 replicas. All replicas, the router and the clients "
        "share two cores, so a second replica gains less than it would on hardware of its own.\n\n"
        + markdown(header, rows, left=2)
    )


def live_simulated() -> str:
    """The same requests sent to a live fleet and simulated."""
    figures, rows = stored("live_simulated"), []
    for process, (key, (name, scale, digits, goal)) in itertools.product(("poisson", "gamma"), COMPARED.items()):
        row = figures[process][key]
        live, simulated, difference, low, high = (
            scale * value for value in (row["live"], row["simulated"], row["difference"], *row["interval"])
        )
        interval = f"{difference:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
        is_met = -goal <= low and high <= goal
        cells = (f"{figures[process]['requests']:,}", f"{live:.{digits}f}", f"{simulated:.{digits}f}", interval)
        rows.append([f"`{figures[process]['arrivals']}`", name, *cells, f"±{goal:g}, {'met' if is_met else 'not met'}"])
    header = ["arrivals", "", "requests", "live", "simulated", "difference, 95% interval", "goal"]
    runs = f"{len(figures['seeds'])} runs of {figures['seconds']:g} s each, blocks of {figures['block_s']:g} s"
    return (
        f"{markdown(header, rows, left=2)}\n\n{conditions(figures['measured'], runs, versions(figures['measured']))}."
    )


FIGURES: dict[str, Callable[[], str]] = {
    "batching": batching,
    "spread": spread,
    "bare-serve": bare_serve,
    "slo": slo,
    "in-router": in_router,
    "tenants": tenants,
    "bare-serve-added": cost_beside_bare_serve,
    "overhead": overhead,
    "saturation": saturation,
    "faults": faults,
    "autoscaling-live": autoscaling_live,
    "live-simulated": live_simulated,
}
