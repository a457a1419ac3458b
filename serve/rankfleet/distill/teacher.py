"""Teacher scores: the raw logits that a student learns."""

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rankfleet.core.errors import InvalidRequest
from rankfleet.engine.runtime.scorer import Reranker


def read_pairs(path: Path, scored: bool) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, with "query", "document" and, if `scored`, "score".

    Raises InvalidRequest that names file and line.
    """
    needed = {"query": str, "document": str} | ({"score": (int, float)} if scored else {})
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    pair = json.loads(line)
                    wrong = [name for name, kind in needed.items() if not isinstance(pair.get(name), kind)]
                except (ValueError, AttributeError):
                    wrong = list(needed)
                if wrong:
                    raise InvalidRequest(f"{path}:{number}: needs JSON with {', '.join(needed)}; check {wrong[0]!r}")
                yield pair
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read as UTF-8 text: {error}") from error


def count_pairs(path: Path, scored: bool) -> int:
    """Number of lines; reads and checks them all."""
    return sum(1 for _ in read_pairs(path, scored))


def drop_half_line(path: Path) -> None:
    """Truncate a file to its last whole line: a killed run may have left half a line."""
    with path.open("r+b") as file:
        written = file.read()
        if not written.endswith(b"\n"):
            file.truncate(written.rfind(b"\n") + 1)


def score_pairs(teacher: Reranker, pairs: Path, out: Path, progress: Callable[[int], None]) -> None:
    """Write `pairs` to `out` with the teacher's score of each; `progress` is called with the number done.

    Lines already in `out` are kept, and scoring continues after them. Neighbouring lines with the same query are scored
    together.
    """
    if out.exists():
        drop_half_line(out)
    done = count_pairs(out, scored=True) if out.exists() else 0
    progress(done)
    rest = (pair for i, pair in enumerate(read_pairs(pairs, scored=False)) if i >= done)
    with out.open("a", encoding="utf-8") as sink:
        for query, group in groupby(rest, key=lambda pair: pair["query"]):
            documents = [pair["document"] for pair in group]
            logits = teacher.score(query, documents)
            sink.writelines(
                json.dumps({"query": query, "document": d, "score": round(float(s), 5)}, ensure_ascii=False) + "\n"
                for d, s in zip(documents, logits, strict=True)
            )
            sink.flush()
            done += len(documents)
            progress(done)
