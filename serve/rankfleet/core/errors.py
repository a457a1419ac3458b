"""Every error that a person can meet: its HTTP status, and a message that says what is wrong and what to do.

RankfleetError                  500
├── ConfigError                 the fleet file is wrong; nothing is started
├── CheckpointError             a model cannot be loaded
├── UnsafeKernels               the compiled kernels can be changed by other users; they are not loaded
├── ScoringFailed               the engine failed on this request; the replica's log has the details
├── InvalidPairs                token ids or lengths that the model cannot take; a text never causes it
├── NotHosted                   the replica lacks the tier, or has another model by that name, during an update
├── ReplicaLost                 a replica went away with a chunk; the chunk is retried, and no client sees the error
└── RequestError                400  the request is not answered; the message says whether to change it or to retry
    ├── InvalidRequest          422  a field is missing, unknown, of the wrong type, or out of range
    ├── Unauthorized            401  the fleet asks for an API key, and there is none or it is not valid
    ├── Forbidden               403  the tenant of the API key may not do this; the message says what it may
    ├── Infeasible              422  not even an idle fleet could do this within the budget
    ├── TooLarge                413  more documents or bytes than the limits
    ├── UnknownModel            404  no tier, SLO class or alias of that name
    ├── NotConfigured           404  the fleet file does not configure this
    ├── PathNotFound            404  the API has no such path
    ├── MethodNotAllowed        405  the path does not take this method
    ├── SlowSender              408  the body did not arrive in time
    ├── Overloaded              429  an idle fleet could do this, but not now; Retry-After says when
    │   └── RateLimited         429  the tenant has sent more than its rate; Retry-After says how long to wait
    ├── ClientGone              499  the client disconnected; nobody reads the reply
    ├── Expired                 504  the budget ended in a queue, before any work was done
    └── Unavailable             503  no replica could answer
"""

from typing import ClassVar

MAX_QUOTED_CHARACTERS = 80


def quote(text: str) -> str:
    """Text that a client sent, in quotes and cut where it is long, for a message."""
    return repr(text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…")


class RankfleetError(Exception):
    """Base of all errors. `code` is stable and meant for programs; the message is meant for people."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init_subclass__(cls, code: str = "internal", status: int = 500) -> None:
        cls.code, cls.status = code, status


class ConfigError(RankfleetError, code="config"): ...


class CheckpointError(RankfleetError, code="checkpoint"): ...


class UnsafeKernels(RankfleetError, code="unsafe_kernels"): ...


class ScoringFailed(RankfleetError, code="scoring_failed"): ...


class InvalidPairs(RankfleetError, code="invalid_pairs"): ...


class NotHosted(RankfleetError, code="not_hosted"): ...


class ReplicaLost(RankfleetError, code="replica_lost"): ...


class RequestError(RankfleetError, status=400, code="bad_request"): ...


class InvalidRequest(RequestError, status=422, code="invalid_request"): ...


class Unauthorized(RequestError, status=401, code="unauthorized"): ...


class Forbidden(RequestError, status=403, code="forbidden"): ...


class Infeasible(RequestError, status=422, code="infeasible"): ...


class SlowSender(RequestError, status=408, code="slow_sender"): ...


class TooLarge(RequestError, status=413, code="too_large"): ...


class UnknownModel(RequestError, status=404, code="unknown_model"): ...


class NotConfigured(RequestError, status=404, code="not_configured"): ...


class PathNotFound(RequestError, status=404, code="not_found"): ...


class MethodNotAllowed(RequestError, status=405, code="method_not_allowed"): ...


class ClientGone(RequestError, status=499, code="client_gone"): ...


class Overloaded(RequestError, status=429, code="overloaded"):
    """`retry_after_s`: predicted seconds until the work ahead is done."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.retry_after_s)


class RateLimited(Overloaded, status=429, code="rate_limited"): ...


class Expired(RequestError, status=504, code="expired"): ...


class Unavailable(RequestError, status=503, code="unavailable"): ...
