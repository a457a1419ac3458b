"""A BM25 index in a folder on disk, by bm25s: English stems, memory-mapped, with its documents."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.core.errors import ConfigError, InvalidRequest, RankfleetError
from rankfleet.retrieval.corpus import Document

FORMAT = 1
K1, B = 1.2, 0.75  # Lucene's defaults
DOCUMENTS, OFFSETS, MANIFEST = "documents.jsonl", "offsets.npy", "rankfleet.json"


@dataclass(frozen=True)
class Hit:
    """A document that matches. score: BM25, above 0."""

    id: str
    text: str
    score: float


def load_bm25s() -> tuple[Any, Any]:
    """(bm25s, an English stemmer). Raises RankfleetError with an install hint."""
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise RankfleetError("searching needs more packages:  pip install 'rankfleet[search]'") from error
    return bm25s, Stemmer.Stemmer("english")


class Bm25Index:
    """A BM25 index in memory or on disk; `search` may be called from several threads."""

    def __init__(self, bm25: Any, documents: "list[Document] | StoredDocuments") -> None:
        self._bm25 = bm25
        self._documents = documents

    def __len__(self) -> int:
        return len(self._documents)

    @classmethod
    def build(cls, documents: Iterable[Document], show_progress: bool = False) -> "Bm25Index":
        """Index documents in memory. Raises InvalidRequest when there are none, or none has a word to search by."""
        bm25s, stemmer = load_bm25s()
        kept = list(documents)
        if not kept:
            raise InvalidRequest("there is no document to index")
        tokens = bm25s.tokenize([d.text for d in kept], stopwords="en", stemmer=stemmer, show_progress=show_progress)
        if not tokens.vocab:
            raise InvalidRequest(f"none of the {len(kept)} documents has a word to search by")
        bm25 = bm25s.BM25(method="lucene", k1=K1, b=B)
        bm25.index(tokens, show_progress=show_progress)
        return cls(bm25, kept)

    def save(self, folder: Path) -> None:
        """Write the index and its documents to `folder`; an index that is there is replaced.

        Old files are unlinked, not overwritten: processes that have them mapped go on reading them, whereas truncating
        a mapped file kills its readers. The manifest is removed first and written last, so that half an index is never
        opened.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, DOCUMENTS, OFFSETS, *(path.name for path in folder.glob("*.index.*"))):
            (folder / name).unlink(missing_ok=True)
        self._bm25.save(str(folder), show_progress=False)
        offsets = []
        with (folder / DOCUMENTS).open("wb") as sink:
            for i in range(len(self)):
                offsets.append(sink.tell())
                document = self._documents[i]
                sink.write(json.dumps({"id": document.id, "text": document.text}, ensure_ascii=False).encode() + b"\n")
        np.save(folder / OFFSETS, np.array(offsets, dtype=np.int64))
        manifest = {"format": FORMAT, "documents": len(self), "method": "bm25 (lucene)", "k1": K1, "b": B}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Bm25Index":
        """Open an index, memory-mapped. Raises ConfigError when the folder has none."""
        bm25s, _ = load_bm25s()
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ConfigError(f"{folder} has index format {manifest['format']}, expected {FORMAT}; build it again")
            bm25 = bm25s.BM25.load(str(folder), mmap=True)
            return cls(bm25, StoredDocuments(folder))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{folder} is not an index; build one with `rankfleet index build DIR --out {folder}`"
            ) from error

    def search(self, query: str, k: int) -> list[Hit]:
        """At most k documents that share a stem with the query, best first; equal scores in corpus order."""
        # A stemmer must not be called by two threads at once; a new one costs less than a microsecond.
        bm25s, stemmer = load_bm25s()
        tokens = bm25s.tokenize([query], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
        # A word that a query repeats counts as often, and its documents are read once.
        repeated = defaultdict[int, list[str]](list)
        for token, times in Counter(tokens[0]).items():
            if token in self._bm25.vocab_dict:
                repeated[times].append(token)
        if not repeated:
            return []
        scores = sum(times * self._bm25.get_scores(words) for times, words in repeated.items())
        rows = np.flatnonzero(scores > 0)
        if len(rows) > k:
            # Keep all rows that tie with the k-th score until the sort; a partition alone would keep any of them.
            kth_score = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
            rows = rows[scores[rows] >= kth_score]
        rows = rows[np.argsort(-scores[rows], kind="stable")][:k]
        found = [(self._documents[int(row)], float(scores[row])) for row in rows]
        return [Hit(document.id, document.text, score) for document, score in found]


class StoredDocuments:
    """Documents read from disk when a row is accessed."""

    def __init__(self, folder: Path) -> None:
        self._text = np.memmap(folder / DOCUMENTS, dtype=np.uint8, mode="r")
        self._offsets = np.load(folder / OFFSETS)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> Document:
        end = self._offsets[row + 1] if row + 1 < len(self) else len(self._text)
        record = json.loads(self._text[self._offsets[row] : end].tobytes())
        return Document(record["id"], record["text"])
