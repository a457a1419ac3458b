"""Compare whole servers on the same cores, model and texts, in turn.

    python -m benchmarks.servers setup    makes the peers' environments (infinity, vLLM), 5 GB
    python -m benchmarks.servers run      writes benchmarks/results/servers.json

The model is a ModernBERT sequence classifier in the shape of Ettin 17m with random weights, a format that all of them
load: its speed is that of a trained one. In each round every server is started, warmed up, measured in each cell
(clients × documents of 154 tokens on average), and ended. Its scores are compared with those of Sentence Transformers
in float32, so that none wins by being wrong. Results are stored by processor.
"""

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from benchmarks.contest.contenders import load_cross_encoder
from benchmarks.contest.process import ContenderFailed
from benchmarks.contest.report import agreement
from benchmarks.contest.rounds import turns
from benchmarks.contest.shapes import write_classifier
from benchmarks.paths import result_file
from benchmarks.servers import environments
from benchmarks.servers.contestants import CONTESTANTS, MAX_TOKENS, NAME, Contestant, Place
from benchmarks.servers.load import CELLS, MEAN_TOKENS, Burst, Cell, load, write_requests
from benchmarks.servers.process import JSON, running
from benchmarks.servers.report import GOALS, cell_figures, is_right, ratios
from torch.nn import Identity

from rankfleet.bench.machine import busy_s, cpu_name
from rankfleet.bench.results import measured, write_results
from rankfleet.bench.sample_texts import SampleRequest, training_texts
from rankfleet.cluster.environment import free_port
from rankfleet.core.cpus import usable_cpus
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.runtime.loading import load_tokenizer

ROUNDS, SECONDS, WARM_UP_S = 3, 10.0, 3.0
VOCABULARY, TRAINING_TEXTS = 16384, 4000
LISTEN_S = 2.0  # for which other load on the machine is measured before a server starts
QUIET = 0.05  # largest share of the machine that other load may take
Requests = dict[Cell, list[SampleRequest]]


def run(options: argparse.Namespace) -> None:
    cores = usable_cpus()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        write_classifier(model, NAME, training_texts(TRAINING_TEXTS), VOCABULARY, MAX_TOKENS)
        tokenizer = load_tokenizer(Checkpoint(model))
        special = tokenizer.template.tokens
        requests = {c: write_requests(c, lambda t: len(tokenizer.encode([t])[0]), special) for c in CELLS}
        place = Place(model, options.environments, Path(scratch), free_port(), cores)
        taking_part = [each for each in CONTESTANTS if each.name.startswith(tuple(options.only))]
        servers, others = measure(taking_part, place, requests, options.rounds, options.seconds)
    figures = {
        "measured": measured(packages=("sentence-transformers",)),
        "threads": cores,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "mean_tokens": MEAN_TOKENS,
        "other_load": round(max(others), 2),
        "undisturbed": max(others) <= QUIET,
        "ratio": ratios(servers),
        "servers": servers,
    }
    show(figures)
    write_results(options.json, {cpu_name(): figures}, figures["measured"], merge=True)


def measure(
    contestants: Sequence[Contestant], place: Place, requests: Requests, rounds: int, seconds: float
) -> tuple[dict[str, dict[str, Any]], list[float]]:
    """Figures by server, and the share of the machine that other processes took before each start."""
    named = {contestant.name: contestant for contestant in contestants}
    checked = requests[CELLS[0]][0]
    truth = reference(place.model, checked)
    servers: dict[str, dict[str, Any]] = {name: {} for name in named}
    bursts: dict[str, dict[str, list[Burst]]] = {name: defaultdict(list) for name in named}
    others = []
    for number, name in turns(list(named), rounds):
        contestant, entry = named[name], servers[name]
        if "not_run" in entry:
            continue
        others.append(other_load(LISTEN_S, place.threads))
        try:
            with running(contestant, place) as ready_s:
                url = f"http://127.0.0.1:{place.port}"
                entry["scores"] = agreement(scores(url, contestant, checked), truth)
                for cell in CELLS:
                    bodies = [contestant.body(each.query, each.documents) for each in requests[cell]]
                    asyncio.run(load(url, contestant, cell, bodies, WARM_UP_S))
                    bursts[name][cell.name].append(asyncio.run(load(url, contestant, cell, bodies, seconds)))
        except (ContenderFailed, OSError, httpx.HTTPError, aiohttp.ClientError) as error:
            entry["not_run"] = str(error).partition(":")[0]  # the rest may say how this machine is laid out
            print(f"{name}: {error}", flush=True)
            continue
        entry["ready_s"] = round(min(ready_s, entry.get("ready_s", ready_s)), 1)
        rates = ", ".join(f"{cell}: {found[-1].pairs_per_s:.0f} pairs/s" for cell, found in bursts[name].items())
        print(f"round {number + 1}, {name}: {rates}", flush=True)
    for name, entry in servers.items():
        if "not_run" not in entry:
            environment = named[name].environment
            entry["versions"] = environments.versions(place.environments / environment) if environment else {}
            entry["cells"] = {cell: cell_figures(found) for cell, found in bursts[name].items()}
    return servers, others


def reference(model: Path, request: SampleRequest) -> list[float]:
    """Raw logits of Sentence Transformers in float32."""
    encoder = load_cross_encoder(str(model), "float32", "cpu", MAX_TOKENS)
    pairs = [(request.query, document) for document in request.documents]
    logits = encoder.predict(pairs, batch_size=4, activation_fn=Identity(), show_progress_bar=False)
    return [float(logit) for logit in logits]


def scores(url: str, contestant: Contestant, request: SampleRequest) -> list[float]:
    """A server's raw logits of one request."""
    body = contestant.body(request.query, request.documents)
    answer = httpx.post(url + contestant.path, content=body, headers=JSON, timeout=60, trust_env=False)
    return contestant.scores(answer.raise_for_status().content)


def other_load(seconds: float, cores: int) -> float:
    """The share of the machine's cores that is in use while this process waits."""
    before_s = busy_s()
    time.sleep(seconds)
    return (busy_s() - before_s) / seconds / cores


def show(figures: dict[str, Any]) -> None:
    """Print ratios beside their goals."""
    for dtype, by_cell in figures["ratio"].items():
        goal = GOALS.get(dtype)
        wanted = f"; goal {goal}: {'met' if by_cell['lowest'] >= goal else 'not met'}" if goal else ""
        print(f"rankfleet {dtype} ÷ the better of infinity and vLLM: {by_cell}{wanted}")
    for name, server in figures["servers"].items():
        if not is_right(server):
            print(f"{name} does not count: {server.get('not_run') or server['scores']['wrong']}")
    if not figures["undisturbed"]:
        print(f"other load took up to {figures['other_load']:.0%} of the machine: the figures are too low")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("setup", "run"))
    parser.add_argument("--environments", type=Path, default=environments.FOLDER, help="of the peers (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[""], help="servers whose names begin with one of these")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a cell in each round (%(default)s)")
    parser.add_argument("--json", type=Path, default=result_file("servers"), help="%(default)s")
    given = parser.parse_args()
    environments.set_up(given.environments) if given.verb == "setup" else run(given)
