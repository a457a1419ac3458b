"""What the requests of all dialects but the native one have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from rankfleet.api.dialects.dialect import ParsedRequest
from rankfleet.api.dialects.documents import texts_of
from rankfleet.api.dialects.json_body import JsonBody
from rankfleet.api.dialects.native import EXAMPLE as NATIVE_EXAMPLE
from rankfleet.api.dialects.native import QUERY
from rankfleet.api.dialects.spans import SpansAskedFor
from rankfleet.api.headers import RequestHeaders
from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import CandidateOrder
from rankfleet.core.text_options import AS_SENT, TextOptions

DOCUMENTS: Any = NATIVE_EXAMPLE["documents"]
EXAMPLE: Mapping[str, Any] = {"query": QUERY, "documents": DOCUMENTS}  # what every dialect's example asks

Texts = Annotated[list[Any], WithJsonSchema({"type": "array", "minItems": 1, "items": {"type": "string"}})]
Model = Annotated[
    str | None, Field(description="a tier, `auto`, or an SLO class; the fleet's default if left out or null")
]
TopN = Annotated[int | None, Field(ge=1, description="number of results to return; all if left out")]


@dataclass(slots=True)
class ParsedRerank(ParsedRequest):
    """raw_scores: whether results have scores as they are, in place of 0 to 1.
    spans: which relevant spans results are to have; None for none.
    """

    raw_scores: bool = False
    spans: SpansAskedFor | None = None


class ModelBody(JsonBody):
    """A request that may name its model."""

    model: Model = None

    def parsed(
        self,
        query: str,
        documents: tuple[str, list[Any]],
        headers: RequestHeaders,
        top_n: int | None,
        returned: bool | None = False,
        raw_scores: bool | None = False,
        options: TextOptions = AS_SENT,
        rank_fields: list[str] | None = None,
        user: str | None = None,
        candidates: CandidateOrder | None = None,
    ) -> ParsedRerank:
        """The request. documents: name of the field, and what it has: strings, or objects with a `text` or with fields
        to rank by. The budget, the SLO class and the tenant are those of the headers. Raises InvalidRequest and
        TooLarge."""
        name, sent = documents
        texts = texts_of(sent, name, rank_fields)
        request = RerankRequest(
            query=query,
            documents=texts,
            top_n=top_n,
            model=self.model,
            slo_ms=headers.slo_ms,
            slo_class=headers.slo_class,
            tenant=headers.tenant,
            user=user or headers.user,
            session=headers.session,
            headers=headers.units,
            candidates=candidates,
            request_id=headers.request_id,
            options=options,
        )
        return ParsedRerank(request, sent if returned else None, bool(raw_scores))
