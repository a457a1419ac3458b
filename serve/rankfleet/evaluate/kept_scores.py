"""Scores on disk, so that a run that was ended goes on: one line of JSON for each query of a model.

    {"model": "small", "identity": "weights 1f…, int8"}
    {"model": "small", "data": "shop", "query": "q1", "texts": "9c…", "seconds": 0.4, …, "scores": [1.5, …]}

The identity of a model and the fingerprint of a query's texts say what a score belongs to. A file that has others under
the same names is refused, so that no figure mixes two.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rankfleet.clients.parts import Scored
from rankfleet.core.appended import drop_half_line
from rankfleet.core.errors import ConfigError
from rankfleet.retrieval.bm25 import Hit

BESIDE = ("seconds", "searches", "tokens", "timed")  # what is kept beside the scores


@dataclass(frozen=True)
class Question:
    """A query of a collection with its candidates."""

    data: str
    query: str
    text: str
    hits: Sequence[Hit]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits, of the query's text and the ids and texts of its candidates, in order."""
        texts = [self.text, *(part for hit in self.hits for part in (hit.id, hit.text))]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


class KeptScores:
    """Scores by model and question, in memory, and in a file if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        """Reads what a file has. Raises ConfigError for a file that is none of ours."""
        self.path = path
        self._found: dict[tuple[str, str, str], tuple[str, Scored]] = {}
        self._identities: dict[str, str] = {}
        if path is not None and path.exists():
            drop_half_line(path)
            try:
                for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                    self._read(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path} does not hold scores ({error!r}); delete it or move it away") from error

    def _read(self, line: dict[str, Any]) -> None:
        if "identity" in line:
            self._identities[line["model"]] = line["identity"]
            return
        rest = {name: line[name] for name in BESIDE}
        scores = Scored(np.array(line["scores"], np.float64), **rest)
        self._found[line["model"], line["data"], line["query"]] = line["texts"], scores

    def check(self, identities: Mapping[str, str], questions: Sequence[Question]) -> None:
        """Raises ConfigError where scores of other models or texts are kept under these names. identities: by model."""
        for model, identity in identities.items():
            if (kept := self._identities.setdefault(model, identity)) != identity:
                raise ConfigError(f"{self.path} has scores of another {model} ({kept}; now {identity}); {self._remedy}")
            for each in questions:
                texts, _ = self._found.get((model, each.data, each.query), (each.fingerprint, None))
                if texts != each.fingerprint:
                    raise ConfigError(
                        f"{self.path} has scores of the query {each.query} of {each.data} with another text or other "
                        f"candidates; {self._remedy}"
                    )

    @property
    def _remedy(self) -> str:
        return "delete it to score everything anew, or name another file with --json"

    def lacks(self, model: str, question: Question) -> bool:
        """Whether it has to be scored: a query without candidates never has."""
        return bool(question.hits) and (model, question.data, question.query) not in self._found

    def get(self, model: str, question: Question) -> Scored:
        """Raises KeyError for one that was not scored."""
        return self._found[model, question.data, question.query][1]

    def timed(self, model: str) -> Counter[str]:
        """How many queries of each collection it has scored one at a time."""
        return Counter(data for (name, data, _), (_, kept) in self._found.items() if name == model and kept.timed)

    def add(self, model: str, question: Question, scores: Scored) -> None:
        key = model, question.data, question.query
        first = all(name != model for name, _, _ in self._found)
        self._found[key] = question.fingerprint, scores
        if self.path is None:
            return
        line = {"model": model, "data": question.data, "query": question.query, "texts": question.fingerprint}
        line |= {name: getattr(scores, name) for name in BESIDE} | {"scores": scores.scores.tolist()}
        lines = [{"model": model, "identity": self._identities.get(model, "")}] if first else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as sink:
            sink.writelines(json.dumps(each) + "\n" for each in (*lines, line))
