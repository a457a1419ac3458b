import asyncio
import gc
import sys
import threading
import tracemalloc

import numpy as np
import pytest

from rankfleet.engine.text.text_encoder import TextEncoder
from rankfleet.engine.text.token_cache import TokenCache
from tests.unit.fakes import WORDS, bpe_tokenizer, word_tokenizer


class CountingEncoder:
    """One token a word, the word's length. Remembers the texts it encoded, and in which threads."""

    def __init__(self, identity: str = "ab" * 32) -> None:
        self.identity = identity
        self.asked: list[str] = []
        self.threads: list[int] = []

    def encode_beginnings(self, texts: list[str], max_tokens: int) -> list[tuple[np.ndarray, bool]]:
        self.asked += texts
        self.threads.append(threading.get_ident())
        ids = [np.array([len(word) for word in text.split()], dtype=np.int32) for text in texts]
        return [(i[:max_tokens].copy(), len(i) <= max_tokens) for i in ids]


async def ask(
    cache: TokenCache, encoder: CountingEncoder, *documents: str, max_tokens: int = 100
) -> tuple[list[list[int]], int]:
    ids, hits = await cache.encode(encoder, list(documents), max_tokens)  # type: ignore[arg-type]
    return [i.tolist() for i in ids], hits


# Bytes of a document of two tokens: a key of 16 bytes, the entry, an array of 8 bytes, and a slot of the dictionary.
TWO_TOKENS = sys.getsizeof(bytes(16)) + sys.getsizeof((1, 2)) + sys.getsizeof(np.empty(0, np.int32)) + 8 + 104


async def test_a_document_is_encoded_once() -> None:
    cache, encoder = TokenCache(10**6), CountingEncoder()
    assert await ask(cache, encoder, "a bb", "ccc", "a bb") == ([[1, 2], [3], [1, 2]], 0)
    assert await ask(cache, encoder, "ccc", "dddd", "a bb") == ([[3], [4], [1, 2]], 2)
    assert encoder.asked == ["a bb", "ccc", "dddd"]


async def test_a_thread_encodes_what_is_long_and_not_cached() -> None:
    cache, encoder = TokenCache(10**6), CountingEncoder()
    texts = ["a" * 2000, "b" * 2000, "c"]
    assert await ask(cache, encoder, *texts[:2]) == ([[2000], [2000]], 0)
    assert await ask(cache, encoder, *texts) == ([[2000], [2000], [1]], 2)
    assert encoder.threads == [threading.get_ident()] * 2, "4000 characters, and one"
    assert await ask(cache, encoder, "d" * 4001) == ([[4001]], 0)
    assert encoder.threads[2] != threading.get_ident()
    assert await ask(cache, encoder, "e" * 200_001, "c") == ([[200_001], [1]], 1)


async def test_owners_are_kept_apart_so_that_no_time_tells_what_another_one_ranked() -> None:
    cache, encoder = TokenCache(10**6), CountingEncoder()
    asked = [await cache.encode(encoder, ["a bb"], 100, owner) for owner in ("shop", "blog", "shop", "")]  # type: ignore[arg-type]
    assert [hits for _, hits in asked] == [0, 0, 1, 0]


async def test_vocabularies_are_kept_apart() -> None:
    cache, one, other = TokenCache(10**6), CountingEncoder("ab" * 32), CountingEncoder("cd" * 32)
    await ask(cache, one, "a")
    assert await ask(cache, other, "a") == ([[1]], 0)
    assert len(cache) == 2


async def test_the_least_recently_used_goes_first() -> None:
    cache, encoder = TokenCache(3 * TWO_TOKENS), CountingEncoder()
    await ask(cache, encoder, "a a", "b b", "c c")
    assert cache.bytes == 3 * TWO_TOKENS
    await ask(cache, encoder, "a a")
    await ask(cache, encoder, "d d")
    assert (len(cache), cache.bytes) == (3, 3 * TWO_TOKENS)
    assert (await ask(cache, encoder, "a a", "c c", "d d"))[1] == 3
    assert (await ask(cache, encoder, "b b"))[1] == 0


async def test_an_entry_larger_than_the_cache_is_not_kept() -> None:
    cache, encoder = TokenCache(TWO_TOKENS - 1), CountingEncoder()
    assert await ask(cache, encoder, "a a") == ([[1, 1]], 0)
    assert (len(cache), cache.bytes) == (0, 0)


async def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache, encoder = TokenCache(0), CountingEncoder()
    assert [(await ask(cache, encoder, "a"))[1] for _ in range(2)] == [0, 0]


async def test_a_cached_beginning_serves_requests_for_no_more_tokens() -> None:
    cache, encoder = TokenCache(10**6), CountingEncoder()
    assert await ask(cache, encoder, "a bb ccc dddd", max_tokens=2) == ([[1, 2]], 0)
    assert (await ask(cache, encoder, "a bb ccc dddd", max_tokens=1))[1] == 1
    assert await ask(cache, encoder, "a bb ccc dddd", max_tokens=3) == ([[1, 2, 3]], 0)
    assert await ask(cache, encoder, "a bb ccc dddd", max_tokens=2) == ([[1, 2, 3]], 1)
    assert await ask(cache, encoder, "a bb ccc dddd", max_tokens=9) == ([[1, 2, 3, 4]], 0)
    assert (await ask(cache, encoder, "a bb ccc dddd", max_tokens=99))[1] == 1
    assert cache.bytes == TWO_TOKENS + 8


async def test_cached_ids_are_read_only() -> None:
    cache = TokenCache(10**6)
    (ids,), _ = await cache.encode(word_tokenizer().encoder, ["a cat"], 10)
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 7


async def test_counted_bytes_are_what_memory_grows_by() -> None:
    cache, encoder = TokenCache(10**9), TextEncoder.shared(bpe_tokenizer())
    texts = [f"{i} the wing of an aircraft {'at speed ' * (i % 9)}" for i in range(20_000)]
    encoder.encode_documents(texts[:10])
    gc.collect()
    tracemalloc.start()
    for start in range(0, len(texts), 100):
        await cache.encode(encoder, texts[start : start + 100], 1000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert cache.bytes == pytest.approx(grown, rel=0.1)


def test_threads_that_share_a_cache_get_their_own_documents() -> None:
    cache, tokenizer = TokenCache(20 * TWO_TOKENS), word_tokenizer()
    texts = [f"{one} {other}" for one in WORDS for other in WORDS]
    expected = dict(zip(texts, (ids.tolist() for ids in tokenizer.encode(texts)), strict=True))
    faults: list[str] = []

    async def work(offset: int) -> None:
        for i in range(60):
            asked = [texts[(offset + i * k) % len(texts)] for k in range(5)]
            ids, _ = await cache.encode(tokenizer.encoder, asked, 10)
            faults.extend(text for text, found in zip(asked, ids, strict=True) if found.tolist() != expected[text])

    threads = [threading.Thread(target=lambda at=offset: asyncio.run(work(at))) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert cache.bytes == len(cache) * TWO_TOKENS <= 20 * TWO_TOKENS


async def test_what_a_thread_has_read_is_kept_though_nobody_waits_for_it() -> None:
    cache, loop = TokenCache(10**6), asyncio.get_running_loop()

    class Abandoned(CountingEncoder):
        """Ends the wait for what it encodes while it does."""

        def encode_beginnings(self, texts: list[str], max_tokens: int) -> list[tuple[np.ndarray, bool]]:
            loop.call_soon_threadsafe(waiting.cancel)
            return super().encode_beginnings(texts, max_tokens)

    waiting = asyncio.create_task(ask(cache, Abandoned(), "word " * 1000))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await loop.shutdown_default_executor()
    assert await ask(cache, CountingEncoder(), "word " * 1000) == ([[4] * 100], 1)
