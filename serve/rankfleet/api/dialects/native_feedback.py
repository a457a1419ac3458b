"""What clients say of an answer afterwards: the body of /v1/feedback."""

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from rankfleet.api.dialects.dialect import Reply, Route
from rankfleet.api.dialects.json_body import JsonBody
from rankfleet.api.headers import VALID_ID, RequestHeaders
from rankfleet.core.bounds import MAX_FEEDBACK_BYTES, MAX_FEEDBACK_DOCUMENTS
from rankfleet.core.errors import InvalidRequest, TooLarge
from rankfleet.core.events import Feedback

MAX_LABEL = 10.0
Place = Annotated[int, Field(ge=0, lt=2**31)]
PlaceAsKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]  # JSON's keys are texts


class FeedbackBody(JsonBody):
    """The body of /v1/feedback."""

    request_id: str = Field(
        pattern=f"^{VALID_ID.pattern}$", description="`id` of the reply, which is also its header `x-request-id`"
    )
    clicks: list[Place] | None = Field(
        None,
        max_length=MAX_FEEDBACK_DOCUMENTS,
        description="documents that were clicked, by their `index` in the reply; empty if the answer was seen and none "
        "was clicked",
    )
    labels: dict[PlaceAsKey, Annotated[float, Field(ge=0, le=MAX_LABEL)]] | None = Field(
        None,
        max_length=MAX_FEEDBACK_DOCUMENTS,
        description="judgements, from 0 for irrelevant to 10, by the document's `index` in the reply",
    )
    converted: bool | None = Field(None, description="whether the request led to what it was for: a purchase, say")


class FeedbackReply(TypedDict):
    status: Annotated[str, Field(description="`queued`: it is written within a second")]


def parse_feedback(body: bytes, headers: RequestHeaders) -> Feedback:
    """Raises InvalidRequest and TooLarge. The time is filled in when it is queued."""
    if len(body) > MAX_FEEDBACK_BYTES:
        raise TooLarge(f"the request body is longer than the {MAX_FEEDBACK_BYTES} bytes allowed for feedback")
    parsed = FeedbackBody.parse(body)
    if parsed.clicks is None and parsed.labels is None and parsed.converted is None:
        raise InvalidRequest("request body: says nothing of the answer; send clicks, labels or converted")
    labels = None if parsed.labels is None else {int(place): label for place, label in parsed.labels.items()}
    return Feedback(
        at_s=0.0,
        request_id=parsed.request_id,
        tenant=headers.tenant,
        clicks=parsed.clicks,
        labels=labels,
        converted=parsed.converted,
    )


def reply_to_feedback(queued: None, parsed: Feedback) -> Reply:
    return Reply({"status": "queued"})


FEEDBACK = Route(
    "/v1/feedback",
    "Say what became of an answer: clicks, labels, a conversion",
    FeedbackBody,
    {"request_id": "6dc97f8b-2e72-4584-9ecc-14657a98c964", "clicks": [1], "converted": True},
    FeedbackReply,
    parse_feedback,
    reply_to_feedback,
    status=202,
)
