"""Where in its text the passage of a document is that scored best."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rankfleet.core.messages import PassageSpan, Ranking
from rankfleet.estimates.calibration import PLAIN, Calibration, probability
from rankfleet.router.texts import Part

SpanOf = Callable[[str, int, int], tuple[int, int]]  # as `TextEncoder.span`


class Passage(NamedTuple):
    """A document's tokens from `start` to before `stop`, as the tier reads them. is_whole: whether they are all."""

    tier: str
    start: int
    stop: int
    is_whole: bool


def best_passages(part: Part, logits: np.ndarray, tier: str, places: np.ndarray) -> dict[int, Passage]:
    """By place, the passage of each candidate that scored best. logits: float [pairs]. places: int [candidates]."""
    layout, pairs = part.layout, part.best_pairs(logits)
    is_whole = part.passages == 1
    is_whole[part.truncated] = False
    columns = (column.tolist() for column in (places, layout.starts[pairs], layout.stops[pairs], is_whole))
    return {place: Passage(tier, *passage) for place, *passage in zip(*columns, strict=True)}


def with_spans(
    ranking: Ranking,
    passages: Mapping[int, Passage],
    span_of: Mapping[str, SpanOf],
    calibrations: Mapping[str, Calibration],
) -> Ranking:
    """The ranking with the span of each scored document. passages: by the document's index. span_of, calibrations of
    logits: by tier."""
    documents = []
    found: dict[tuple[str, Passage], tuple[int, int]] = {}  # several queries may have the same document
    for document in ranking.documents:
        passage, text = passages.get(document.index), ranking.texts[document.index]
        if passage is not None and document.logit is not None and passage.start < passage.stop:
            whole = (0, len(text))
            if not passage.is_whole and (text, passage) not in found:
                found[text, passage] = span_of[passage.tier](text, passage.start, passage.stop)
            start, stop = whole if passage.is_whole else found[text, passage]
            log_odds = calibrations.get(passage.tier, PLAIN).log_odds(np.array(document.logit))
            document = replace(document, span=PassageSpan(start, stop, float(probability(log_odds))))
        documents.append(document)
    return replace(ranking, documents=documents)
