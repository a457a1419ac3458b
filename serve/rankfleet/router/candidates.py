"""The candidates of a request as their retriever ranked them."""

import math
from dataclasses import replace

import numpy as np

from rankfleet.core.errors import InvalidRequest
from rankfleet.core.messages import RerankRequest


def check_scores(request: RerankRequest) -> None:
    """Raises InvalidRequest for scores of the retriever that contradict the rest of the request, or are not finite."""
    if (scores := request.scores) is None:
        return
    if request.candidates == "unordered":
        raise InvalidRequest(
            "scores rank the documents, and candidates: unordered says that nothing does; leave out one of them"
        )
    if len(scores) != len(request.documents):
        raise InvalidRequest(f"{len(scores)} scores for {len(request.documents)} documents; send one for each")
    if not all(map(math.isfinite, scores)):
        wrong = next(i for i, score in enumerate(scores) if not math.isfinite(score))
        raise InvalidRequest(f"scores.{wrong} is not a finite number; send a finite score for each document, or none")


def for_each_query(request: RerankRequest) -> RerankRequest:
    """The request with documents and scores of each query, one query's after the other's, where they share them."""
    if not request.queries or request.counts:
        return request
    times, scores = len(request.queries), request.scores
    return replace(
        request,
        documents=request.documents * times,
        scores=None if scores is None else scores * times,
        counts=(len(request.documents),) * times,
    )


def in_retrievers_order(request: RerankRequest) -> tuple[RerankRequest, np.ndarray | None]:
    """The request with the documents of each query in falling order of their scores, ties as sent; and int [documents],
    the place of each in the request as it was sent. None if they are in that order already, or have no scores."""
    if request.scores is None:
        return request, None
    scores = np.array(request.scores, np.float64)
    places = request.lists.best_first(scores)
    if (places[:-1] < places[1:]).all():
        return request, None
    documents = [request.documents[i] for i in places]
    return replace(request, documents=documents, scores=scores[places].tolist()), places
