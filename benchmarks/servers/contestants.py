"""The servers under test: how each is started, what it is asked, and where its scores stand in the reply.

All get the whole machine: as many threads as there are cores, and no limit that would cut or refuse a request. Settings
that differ from a server's defaults are those that its documentation recommends for a CPU, or that make it faster here.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rankfleet.cluster.environment import LOCAL, LOW_LATENCY

NAME = "17m"  # of the model in every server
MAX_TOKENS = 1024  # of a pair; no pair of the texts is longer


@dataclass(frozen=True)
class Place:
    """Where a server runs. environments: folder of the peers' environments; scratch: a folder for its files."""

    model: Path
    environments: Path
    scratch: Path
    port: int
    threads: int


@dataclass(frozen=True)
class Contestant:
    """One server in one precision.

    environment: name of the peer's environment, None for this interpreter's; fields: added to the body of every
    request; score: key of the raw logit in a result.
    """

    name: str
    dtype: str
    command: Callable[[Place], list[str]]
    path: str = "/rerank"
    environment: str | None = None
    variables: Callable[[Place], Mapping[str, str]] = lambda _: {}
    fields: Mapping[str, Any] = field(default_factory=dict)
    score: str = "relevance_score"

    def body(self, query: str, documents: list[str]) -> bytes:
        return json.dumps({"model": NAME, "query": query, "documents": documents, **self.fields}).encode()

    def scores(self, reply: bytes) -> list[float]:
        """Raw logits in the order of the documents."""
        results = {result["index"]: float(result[self.score]) for result in json.loads(reply)["results"]}
        return [results[index] for index in range(len(results))]


def rankfleet(dtype: str) -> Contestant:
    """This server: one replica with all threads. Requests carry no budget, so that nothing is left out, and token ids
    are not cached, since the benchmark sends its texts more than once."""

    def command(place: Place) -> list[str]:
        fleet = {
            "tiers": {NAME: {"model": str(place.model), "quality": 0.5}},
            "groups": {"one": {"tiers": [NAME], "cpus": 1, "threads": place.threads, "dtype": dtype}},
            "token_cache_mb": 0,
        }
        config = place.scratch / f"{dtype}.yaml"
        config.write_text(yaml.safe_dump(fleet), encoding="utf-8")
        program = str(Path(sys.executable).with_name("rankfleet"))
        return [program, "serve", "--config", str(config), "--port", str(place.port)]

    return Contestant(f"rankfleet {dtype}", dtype, command, path="/v1/rerank", score="logit")


def infinity(dtype: str) -> Contestant:
    """infinity with its torch engine. Batches of 4 pairs are several times as fast on a CPU as its default of 32, since
    less is padded. Off: telemetry; a cache of results on disk; BetterTransformer, which needs an older torch;
    torch.compile, which would compile anew for new lengths."""

    def command(place: Place) -> list[str]:
        program = str(place.environments / "infinity/bin/infinity_emb")
        options = {
            "--model-id": str(place.model),
            "--served-model-name": NAME,
            "--host": "127.0.0.1",
            "--port": str(place.port),
            "--device": "cpu",
            "--engine": "torch",
            "--dtype": dtype,
            "--batch-size": "4",
        }
        flags = ["--no-compile", "--no-bettertransformer", "--no-vector-disk-cache"]
        return [program, "v2", *(word for option in options.items() for word in option), *flags]

    def variables(place: Place) -> Mapping[str, str]:
        threads = str(place.threads)
        return {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "OMP_NUM_THREADS": threads}

    fields = {"raw_scores": True, "return_documents": False}
    return Contestant(f"infinity {dtype}", dtype, command, environment="infinity", variables=variables, fields=fields)


def vllm(dtype: str) -> Contestant:
    """vLLM's build for CPUs. Its documentation recommends to bind threads to cores and to state the space of the KV
    cache, of which an encoder needs next to nothing. By itself it would leave one of two cores to the HTTP server."""

    def command(place: Place) -> list[str]:
        program = str(place.environments / "vllm/bin/vllm")
        options = {
            "--served-model-name": NAME,
            "--host": "127.0.0.1",
            "--port": str(place.port),
            "--runner": "pooling",
            "--dtype": dtype,
            "--max-model-len": str(MAX_TOKENS),
        }
        return [program, "serve", str(place.model), *(word for option in options.items() for word in option)]

    def variables(place: Place) -> Mapping[str, str]:
        return {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{place.threads - 1}",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }

    fields = {"use_activation": False}
    return Contestant(f"vllm {dtype}", dtype, command, environment="vllm", variables=variables, fields=fields)


def bare() -> Contestant:
    """`benchmarks.servers.bare`, with Serve's settings for low latency that `rankfleet serve` makes too, and Sentence
    Transformers at the batch size that is its best on a CPU."""

    def command(place: Place) -> list[str]:
        words = (str(place.model), str(place.port), str(place.threads))
        return [sys.executable, "-m", "benchmarks.servers.bare", *words]

    return Contestant("bare serve float32", "float32", command, variables=lambda _: LOW_LATENCY | LOCAL)


CONTESTANTS = (
    *map(rankfleet, ("auto", "float32", "int8")),
    *map(infinity, ("float32", "bfloat16")),
    *map(vllm, ("float32", "bfloat16")),
    bare(),
)
