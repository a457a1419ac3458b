"""An LRU cache of documents' token ids, bounded in bytes."""

import hashlib
import sys
from collections import OrderedDict
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np

from rankfleet.engine.text.inline import INLINE_ENCODED, INLINE_HASHED, run
from rankfleet.engine.text.text_encoder import TextEncoder

# What the ordered dictionary itself takes for an entry, in its hash table and linked list: 80 to 150 by tracemalloc, as
# the table grows in steps.
SLOT_BYTES = 104


class CacheEntry(NamedTuple):
    """Token ids of a document. `whole`: whether they are all of it and not only the beginning."""

    ids: np.ndarray
    whole: bool


class TokenCache:
    """Token ids by the document's text, its owner and the vocabulary. Thread-safe.

    How long a request takes tells whether its documents were in the cache, so each owner has entries of its own. A key
    is a 128-bit BLAKE2 hash. Colliding texts cannot be constructed, so no client can replace the ids of another
    client's document.
    """

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of all entries with their keys and dictionary slots; 0 keeps nothing."""
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[bytes, CacheEntry] = OrderedDict()
        self._lock = Lock()

    def resize(self, max_bytes: int) -> None:
        """Change the bound, and drop the least recently used entries that exceed it."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def _shrink(self) -> None:
        while self.bytes > self.max_bytes:
            key, entry = self._entries.popitem(last=False)
            self.bytes -= size_of(key, entry)

    def __len__(self) -> int:
        return len(self._entries)

    async def encode(
        self, encoder: TextEncoder, documents: list[str], max_tokens: int, owner: str = ""
    ) -> tuple[list[np.ndarray], int]:
        """Token ids of each document, at least its first `max_tokens`, and the number of cache hits. Documents whose
        text is the same have one array. owner: at most 64 characters of ASCII."""
        find = partial(self._find, encoder, documents, max_tokens, owner)
        keys, found = await run(find, sum(map(len, documents)), INLINE_HASHED)
        missing = {key: document for key, document, ids in zip(keys, documents, found, strict=True) if ids is None}
        if not missing:
            return found, len(documents)  # type: ignore[return-value]
        read = partial(self._read, encoder, missing, max_tokens)
        new = await run(read, sum(map(len, missing.values())), INLINE_ENCODED)
        hits = sum(ids is not None for ids in found)
        return [new[key].ids if ids is None else ids for key, ids in zip(keys, found, strict=True)], hits

    def _find(
        self, encoder: TextEncoder, documents: list[str], max_tokens: int, owner: str
    ) -> tuple[list[bytes], list[np.ndarray | None]]:
        """The key of each document, and its token ids or None."""
        keys = keys_of(documents, bytes.fromhex(encoder.identity[:32]), owner)
        found: list[np.ndarray | None] = []
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None or not (entry.whole or len(entry.ids) >= max_tokens):
                    found.append(None)
                else:
                    self._entries.move_to_end(key)
                    found.append(entry.ids)
        return keys, found

    def _read(self, encoder: TextEncoder, missing: dict[bytes, str], max_tokens: int) -> dict[bytes, CacheEntry]:
        """The entries of documents, which are kept even if nobody waits for them any more."""
        encoded = encoder.encode_beginnings([*missing.values()], max_tokens)
        new = {key: CacheEntry(ids, whole) for key, (ids, whole) in zip(missing, encoded, strict=True)}
        self._put(new)
        return new

    def _put(self, new: dict[bytes, CacheEntry]) -> None:
        for entry in new.values():
            entry.ids.flags.writeable = False  # many requests share the array
        with self._lock:
            for key, entry in new.items():
                if (old := self._entries.pop(key, None)) is not None:
                    self.bytes -= size_of(key, old)
                self._entries[key] = entry
                self.bytes += size_of(key, entry)
            self._shrink()


def keys_of(documents: list[str], salt: bytes, owner: str = "") -> list[bytes]:
    """The cache key of each document. `salt`: 16 bytes that identify the vocabulary."""
    salted, keys = hashlib.blake2b(digest_size=16, person=salt, key=owner.encode()), []
    for document in documents:
        hasher = salted.copy()  # half the time of a new one with these parameters
        hasher.update(document.encode("utf-8", "surrogatepass"))
        keys.append(hasher.digest())
    return keys


def size_of(key: bytes, entry: CacheEntry) -> int:
    """Bytes that an entry takes, including the array's data."""
    return sys.getsizeof(key) + sys.getsizeof(entry) + sys.getsizeof(entry.ids) + SLOT_BYTES
