"""Limits on the texts of one request (`limits` in the fleet file)."""

from rankfleet.core.errors import InvalidRequest, TooLarge
from rankfleet.core.messages import RerankRequest
from rankfleet.core.sections import Limits

MAX_CHARACTER_BYTES = 4  # of UTF-8


def check_query(query: str, limits: Limits) -> None:
    """Raises InvalidRequest for an empty query, and TooLarge for one beyond the limit."""
    if not query.strip():
        raise InvalidRequest("query is empty; send the text that documents are to be ranked for")
    if len(query) > limits.max_query_bytes or len(query.encode()) > limits.max_query_bytes:
        raise TooLarge(f"query is longer than the {limits.max_query_bytes} bytes allowed")


def check_instruction(instruction: str | None, limits: Limits) -> None:
    """Raises TooLarge for an instruction longer than a query may be."""
    if instruction is not None and len(instruction.encode()) > limits.max_query_bytes:
        raise TooLarge(f"instruction is longer than the {limits.max_query_bytes} bytes allowed")


def check_documents(request: RerankRequest, limits: Limits) -> None:
    """Raises InvalidRequest for a query without documents, and TooLarge for too many, of all queries together, or for
    one that is too long."""
    documents, max_bytes, lists = request.documents, limits.max_document_bytes, request.lists
    if 0 in lists.counts:
        raise InvalidRequest("documents is empty; send at least one document")
    if (pairs := sum(lists.counts)) > limits.max_documents:
        together = f" for {len(lists.counts)} queries together" if request.queries else ""
        raise TooLarge(
            f"{pairs} documents{together} are more than the {limits.max_documents} allowed; "
            "send fewer, or split them over several requests"
        )
    if max(request.characters) * MAX_CHARACTER_BYTES <= max_bytes:
        return
    for i, (document, characters) in enumerate(zip(documents, request.characters, strict=True)):
        # The number of characters, a lower bound, spares encoding a text that is far too long.
        if characters > max_bytes or len(document.encode()) > max_bytes:
            place = "{}.{}".format(*lists.locate(i)) if request.counts else i
            raise TooLarge(
                f"documents.{place} is longer than the {max_bytes} bytes allowed; cut it into passages and rank those"
            )
