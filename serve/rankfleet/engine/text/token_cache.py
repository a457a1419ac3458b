"""An LRU cache of documents' token ids, bounded in bytes."""

import hashlib
import sys
from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

import numpy as np

from rankfleet.engine.text.text_encoder import TextEncoder

# What the ordered dictionary itself takes for an entry, in its hash table and linked list: 80 to 150 by tracemalloc, as
# the table grows in steps.
SLOT_BYTES = 104


class CacheEntry(NamedTuple):
    """Token ids of a document. `whole`: whether they are all of it and not only the beginning."""

    ids: np.ndarray
    whole: bool


class TokenCache:
    """Token ids by the document's text and the vocabulary. Thread-safe.

    A key is a 128-bit BLAKE2 hash. Colliding texts cannot be constructed, so no client can replace the ids of another
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

    def encode(self, encoder: TextEncoder, documents: list[str], max_tokens: int) -> tuple[list[np.ndarray], int]:
        """Token ids of each document, at least its first `max_tokens`, and the number of cache hits."""
        if self.max_bytes == 0:
            return [ids for ids, _ in encoder.encode_beginnings(documents, max_tokens)], 0
        salt = bytes.fromhex(encoder.identity[:32])
        keys = [key_of(document, salt) for document in documents]
        found = self._get(keys, max_tokens)
        missing = {key: document for key, document, ids in zip(keys, documents, found, strict=True) if ids is None}
        if not missing:
            return found, len(documents)  # type: ignore[return-value]
        encoded = encoder.encode_beginnings([*missing.values()], max_tokens)
        new = {key: CacheEntry(ids, whole) for key, (ids, whole) in zip(missing, encoded, strict=True)}
        self._put(new)
        hits = sum(ids is not None for ids in found)
        return [new[key].ids if ids is None else ids for key, ids in zip(keys, found, strict=True)], hits

    def _get(self, keys: list[bytes], max_tokens: int) -> list[np.ndarray | None]:
        found: list[np.ndarray | None] = []
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None or not (entry.whole or len(entry.ids) >= max_tokens):
                    found.append(None)
                else:
                    self._entries.move_to_end(key)
                    found.append(entry.ids)
        return found

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


def key_of(document: str, salt: bytes) -> bytes:
    """The cache key. `salt`: 16 bytes that identify the vocabulary."""
    return hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=16, person=salt).digest()


def size_of(key: bytes, entry: CacheEntry) -> int:
    """Bytes that an entry takes, including the array's data."""
    return sys.getsizeof(key) + sys.getsizeof(entry) + sys.getsizeof(entry.ids) + SLOT_BYTES
