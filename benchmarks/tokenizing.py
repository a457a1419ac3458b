"""Measure how long a request's texts take to tokenize, by back-end, cold and from the cache, on one thread.

    python -m benchmarks.tokenizing --tokenizer modernbert_tokenizer.json [--texts corpus.jsonl] [--json F]

A request is a query and 100 documents with a mean of 154 tokens. Both are timed as in the router, from texts to
laid-out pairs. Each figure is the median over requests with documents not seen before; the back-ends take turns. Texts
are runs of words from the file given, or else made-up English-like words.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"  # tokenizers would take every core; read when it is imported

import numpy as np
from tokenizers import Tokenizer

from rankfleet.bench.results import measured, write_results
from rankfleet.engine.text.text_encoder import TextEncoder
from rankfleet.engine.text.token_cache import TokenCache
from rankfleet.engine.text.tokenizer import PairTokenizer

MAX_TOKENS = 512
SYLLABLES = ["ta", "ri", "mo", "ne", "lo", "su", "ka", "pe", "th", "er", "ing", "al", "ion", "st", "un", "ce"]


async def main() -> None:
    options = arguments()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    started_s = time.perf_counter()
    encoders = {"tiktoken": TextEncoder(tokenizer)}
    check_s = time.perf_counter() - started_s
    if encoders["tiktoken"].backend != "tiktoken":
        sys.exit("tiktoken does not give this tokenizer's ids, so there is nothing to compare")
    encoders["tokenizers"] = TextEncoder(tokenizer, fast=False)
    pairs = PairTokenizer(tokenizer, MAX_TOKENS)

    rng = random.Random(12)
    words = read_words(options.texts) if options.texts else made_up_words(rng)
    requests = [make_request(rng, words, encoders["tiktoken"], options) for _ in range(options.requests)]
    tokens = [sum(map(len, encoders["tiktoken"].encode_documents(documents))) for _, documents in requests]
    times: dict[str, list[float]] = {}
    for query, documents in requests:
        for name, encoder in encoders.items():
            cache = TokenCache(10**9)
            for state in ("cold", "cached"):
                copies = [text.encode().decode() for text in documents]  # as after parsing: no hash kept in them
                times.setdefault(f"{name} {state}", []).append(
                    await time_ms(tokenize(pairs, encoder, cache, query, copies))
                )

    figures = {name: round(statistics.median(ms), 3) for name, ms in times.items()}
    lowest = {name: round(min(ms), 3) for name, ms in times.items()}
    width = max(map(len, figures))
    print(f"{options.documents} documents, {np.mean(tokens) / options.documents:.0f} tokens each, one thread")
    for name, ms in figures.items():
        print(f"{name:{width}}  {ms:8.3f} ms median  {lowest[name]:8.3f} ms at best")
    print(f"{'start-up check':{width}}  {check_s * 1e3:8.0f} ms, once for each vocabulary")
    if options.json:
        facts = {
            "median_ms": figures,
            "min_ms": lowest,
            "start_up_check_ms": round(check_s * 1e3),
            "documents": options.documents,
            "mean_tokens": round(float(np.mean(tokens)) / options.documents, 1),
            "requests": options.requests,
            "tokenizer": options.tokenizer.name,
        }
        write_results(options.json, facts, measured(packages=("tiktoken",)))


async def tokenize(
    pairs: PairTokenizer, encoder: TextEncoder, cache: TokenCache, query: str, documents: list[str]
) -> None:
    """What the router does with the texts of one request."""
    query_ids = encoder.encode_queries([query])[0]
    ids, _ = await cache.encode(encoder, documents, pairs.reach(query_ids))
    pairs.build_pairs(query_ids, ids, pairs.layout(query_ids, ids))


async def time_ms(work: Awaitable[None]) -> float:
    started_s = time.perf_counter()
    await work
    return (time.perf_counter() - started_s) * 1e3


def make_request(
    rng: random.Random, words: list[str], encoder: TextEncoder, options: argparse.Namespace
) -> tuple[str, list[str]]:
    """A query, and documents with normally distributed numbers of tokens, a third of the mean apart."""
    documents = []
    for _ in range(options.documents):
        target = max(8, round(rng.gauss(options.mean_tokens, options.mean_tokens / 3)))
        start = rng.randrange(max(1, len(words) - target))
        text = " ".join(words[start : start + target])  # each word has at least one token
        tokens = len(encoder.encode_queries([text])[0])
        documents.append(" ".join(words[start : start + max(1, round(target * target / tokens))]))
    return " ".join(words[:8]), documents


def read_words(path: Path) -> list[str]:
    """The words of a JSON-lines file of documents with `title` and `text`, in their order."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return " ".join(f"{row.get('title', '')} {row['text']}" for row in rows).split()


def made_up_words(rng: random.Random) -> list[str]:
    common = ["the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not"]
    made = ["".join(rng.choices(SYLLABLES, k=rng.randrange(1, 4))) for _ in range(4000)]
    return [
        rng.choice(common) if rng.random() < 0.5 else rng.choice(made) + rng.choice(",..;    ").strip()
        for _ in range(100_000)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time tokenizing by back-end, cold and cached.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json of byte-level BPE")
    parser.add_argument("--texts", type=Path, help="a corpus.jsonl to take the words from")
    parser.add_argument("--documents", type=int, default=100, help="of a request")
    parser.add_argument("--mean-tokens", type=int, default=154, help="of a document")
    parser.add_argument("--requests", type=int, default=50, help="to take the median over")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
