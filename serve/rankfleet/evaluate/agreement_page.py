"""Rankings of several rankers side by side, as one HTML file that needs no server.

Every text is escaped, there is no script, and the page's policy lets a browser load and run nothing.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rankfleet.evaluate.agreement import MEASURES, Orders
from rankfleet.evaluate.candidates import Candidates
from rankfleet.evaluate.measures import DEPTH

SHOWN = 300  # characters of a document
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Rankings side by side</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 0 0 2rem } th, td { padding: .3rem .6rem; text-align: left }
.side { table-layout: fixed; width: 100% }
.side td { border: 1px solid #ddd; vertical-align: top; overflow-wrap: anywhere }
.top { background: #e6f2e6 } small { color: #555 }
</style></head><body>
"""


def page(
    figures: Mapping[str, Mapping[str, Any]],
    queries: Mapping[str, str],
    shown: Sequence[str],
    candidates: Candidates,
    orders: Orders,
    judge: str,
) -> str:
    """figures: from `agreement.means`. queries: texts by id. shown: ids, in the order of the page. orders: the judge's
    among them, which stands last."""
    names = [*(name for name in orders if name != judge), judge]
    rows = [
        [name, *(f"{own[measure]:.3f}" for measure in MEASURES), "{:.3f} to {:.3f}".format(*own["interval"])]
        for name, own in figures.items()
    ]
    parts = [HEAD, f"<h1>Agreement with {escape(judge)}</h1>", f"<p>{len(queries)} queries.</p>"]
    parts += table(["ranker", *MEASURES, "95% interval of ndcg@10"], [[escape(cell) for cell in row] for row in rows])
    parts.append(
        f"<p>Below, the {len(shown)} queries on which the tiers agree least with {escape(judge)}. A document's number "
        f"is its rank there; its first {DEPTH} are green.</p>"
    )
    for query in shown:
        truth = {int(place): rank for rank, place in enumerate(orders[judge][query], 1)}
        cells = [
            [document(candidates[query][place], truth[int(place)]) for place in orders[name][query][:DEPTH]]
            for name in names
        ]
        parts.append(f"<h2>{escape(queries[query])}</h2>")
        parts += table([*map(escape, names)], [[*row] for row in zip(*cells, strict=True)], "side")
    return "\n".join([*parts, "</body></html>\n"])


def document(hit: Any, rank: int) -> str:
    """A cell. rank: of the judge."""
    text = hit.text if len(hit.text) <= SHOWN else hit.text[:SHOWN] + "…"
    kind = ' class="top"' if rank <= DEPTH else ""
    return f"<td{kind}><b>{rank}</b> <small>{escape(hit.id)}</small><br>{escape(text)}</td>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "plain") -> list[str]:
    """header: escaped. rows: of escaped texts, or of whole cells."""
    lines = [f'<table class="{kind}"><tr>' + "".join(f"<th>{name}</th>" for name in header) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>")
    return [*lines, "</table>"]
