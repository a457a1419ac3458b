"""The table of docs/faults.md from benchmarks/results/faults.json, which `rankfleet bench faults` and `soak` write.

python benchmarks/faults_table.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks/results/faults.json", ROOT / "docs/faults.md"
MARK = "<!-- figures: benchmarks/faults_table.py -->"
WHAT = {
    "calm": "nothing happens",
    "kill": "a replica killed every 10 s, every third a router",
    "hang": "a replica stopped, as if its network were gone",
    "node": "a node removed without a word",
    "redeploy": "a changed fleet file that replaces every replica",
    "cancel": "a tenth of the clients go away",
    "overload": "five times the peak of goodput",
}
KEYS = ("requests", "ok", "refused", "failed", "late", "unscored")


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"| scenario | what | {' | '.join(KEYS)} | p50 ms | p99 ms |",
        f"|---|---|{'---:|' * (len(KEYS) + 2)}",
    ]
    for name, what in WHAT.items():
        if (row := figures.get(name)) is not None:
            cells = [str(row[key]) for key in KEYS] + [f"{row[key]:.0f}" for key in ("p50_ms", "p99_ms")]
            lines.append(f"| `{name}` | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def overload(row: dict[str, Any]) -> str:
    again = row["normal_again_s"]
    return (
        f"Overload: the peak of goodput was {row['peak_goodput_per_s']:.1f} requests a second, and "
        f"{row['goodput_per_s']:.1f} ({row['goodput_share']:.0%}) at five times that. Refusals took "
        f"{row['refused_p50_ms']:.0f} ms at the median, {row['refused_p90_ms']:.0f} ms at the 90th and "
        f"{row['refused_p99_ms']:.0f} ms at the 99th percentile, as their clients saw them. "
        f"Latency was normal (within 1.5 times the calm 99th percentile, {row['calm_p99_ms']:.0f} ms) "
        + ("not again before the load ended." if again is None else f"{again:.1f} s after it ended.")
    )


def memory(row: dict[str, Any]) -> str:
    return (
        f"Memory: in {row['minutes']:g} minutes at {row['load']:.0%} of what the fleet can do "
        f"({row['rate_per_s']:.1f} requests a second) the process that grew most grew by "
        f"{row['max_growth']:.1%} after the first {row['warm_s']} s; {row['requests']} requests, "
        f"{row['failed']} failed.\n\n" + processes(row["processes"])
    )


def processes(rows: dict[str, dict[str, float]]) -> str:
    lines = ["| process | MiB at first | at last | growth |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        lines.append(f"| {name.split()[0]} | {row['first_mib']:.0f} | {row['last_mib']:.0f} | {row['growth']:+.1%} |")
    return "\n".join(lines)


def page(figures: dict[str, Any]) -> str:
    given = next(iter(figures.values()))["conditions"]
    versions = ", ".join(f"{name} {version}" for name, version in given["versions"].items())
    replicas = ", ".join(f"{count} of {name}" for name, count in given["replicas"].items())
    dates = sorted({row["conditions"]["date"] for row in figures.values()})
    parts = [
        "## Measured",
        table(figures),
        *([overload(figures["overload"])] if "overload" in figures else []),
        *([memory(figures["soak"])] if "soak" in figures else []),
        f"{given['device']}, {versions}, {', '.join(dates)}; replicas: {replicas}. The load comes from the same cores, "
        "and so does the start of every replica that takes another's place, which is what latencies show most. Late: "
        "answered after the budget as the client sees it; unscored: in the order given, since the budget had ended.",
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    figures = page(json.loads(RESULTS.read_text(encoding="utf-8")))
    PAGE.write_text(f"{before}{MARK}\n\n{figures}\n\n{MARK}{after}", encoding="utf-8")
