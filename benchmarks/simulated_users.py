"""Send the queries of simulated users to a running fleet, and say what they clicked.

    python -m benchmarks.simulated_users --data FOLDER [--url http://127.0.0.1:8000] [--users 500] [--requests 4000]

FOLDER holds a judged collection, as for `rankfleet evaluate`; candidates are BM25's. Each request is of a user, with a
query, both chosen at random. The user reads the results from the top (a cascade model: Craswell et al., WSDM 2008): a
relevant one is clicked more often than another, and who has clicked a relevant one is content and leaves. One in
`--buys` contents buys. Clicks go to POST /v1/feedback under the request's id.
"""

import argparse
import asyncio
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from rankfleet.evaluate.candidates import Collection

CLICKS_RELEVANT, CLICKS_OTHER = 0.7, 0.05
READS_ON = 0.85  # after a result that was not clicked
CLIENTS = 4  # requests at a time
SHOWN = 10


@dataclass(frozen=True)
class Query:
    """A query with its candidates. relevant: bool, by candidate."""

    text: str
    documents: list[str]
    relevant: list[bool]


def read_queries(folder: Path, candidates: int, queries: int | None) -> list[Query]:
    collection = Collection.read(folder, candidates, queries)
    found = []
    for name, hits in collection.candidates.items():
        judged = collection.judged.qrels[name]
        relevant = [judged.get(hit.id, 0) > 0 for hit in hits]
        found.append(Query(collection.judged.queries[name], [hit.text for hit in hits], relevant))
    return found


def clicks_of(ranking: list[int], query: Query, rng: np.random.Generator) -> tuple[list[int], bool]:
    """(the documents that are clicked, whether the user is content). ranking: documents by place, best first."""
    clicks = []
    for document in ranking:
        relevant = query.relevant[document]
        if rng.random() < (CLICKS_RELEVANT if relevant else CLICKS_OTHER):
            clicks.append(document)
            if relevant:
                return clicks, True
        elif rng.random() > READS_ON:
            break
    return clicks, False


async def send(options: argparse.Namespace) -> dict[str, Any]:
    """Send all requests, CLIENTS at a time, and their clicks. Returns counts."""
    queries = read_queries(options.data, options.candidates, options.queries)
    rng = np.random.default_rng(options.seed)
    activity = rng.gamma(1.0, 1.0, options.users)
    users = rng.choice(options.users, options.requests, p=activity / activity.sum())
    chosen = rng.integers(0, len(queries), options.requests)
    counts: Counter[str] = Counter()
    numbers = iter(range(options.requests))
    key = {"authorization": f"Bearer {options.key}"} if options.key else {}

    async def client(http: httpx.AsyncClient) -> None:
        for number in numbers:
            query = queries[chosen[number]]
            body = {"query": query.text, "documents": query.documents, "top_n": SHOWN, "user": f"user-{users[number]}"}
            reply = await http.post("/v1/rerank", json=body | ({"slo_ms": options.slo_ms} if options.slo_ms else {}))
            counts[f"status {reply.status_code}"] += 1
            if reply.status_code != 200:
                continue
            answer = reply.json()
            clicks, content = clicks_of([result["index"] for result in answer["results"]], query, rng)
            bought = content and rng.random() < 1 / options.buys
            counts["clicks"] += len(clicks)
            counts["bought"] += bought
            feedback = {"request_id": answer["id"], "clicks": clicks, "converted": bool(bought)}
            said = await http.post("/v1/feedback", json=feedback)
            counts[f"feedback {said.status_code}"] += 1
            if number % 500 == 499:
                print(f"{number + 1:,} of {options.requests:,} requests sent", file=sys.stderr)

    async with httpx.AsyncClient(base_url=options.url, headers=key, timeout=30.0) as http:
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return dict(sorted(counts.items()))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of a judged collection")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="API key, if the fleet asks for one")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--queries", type=int, help="only so many, from the first")
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--slo-ms", type=float, help="budget of each request; default: the fleet's")
    parser.add_argument("--buys", type=float, default=4, help="one in so many contents buys")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(asyncio.run(send(parse_arguments())))
