"""Every error a person can meet, with its HTTP status and a message that says what to do.

RankfleetError                  500
├── ConfigError                 the fleet file is wrong; nothing is started
├── CheckpointError             a model cannot be loaded
├── ScoringFailed               the engine failed on this request; the replica's log has the details
├── InvalidPairs                token ids or lengths that the model does not have; never from a text
├── NotHosted                   the replica has no such tier, or another model by that name: an update goes on
├── ReplicaLost                 a replica went away with a chunk; another is asked, and no client sees it
└── RequestError                400  the request is wrong; sending it again will not help
    ├── InvalidRequest          422  a field is missing, unknown, of the wrong type, or out of range
    ├── Infeasible              422  not even an idle fleet could do this within the budget
    ├── TooLarge                413  more documents or bytes than the limits
    ├── UnknownModel            404  no tier, SLO class or alias of that name
    ├── NotConfigured           404  the fleet file does not ask for this
    ├── SlowSender              408  the body did not come in time
    ├── Overloaded              429  an idle fleet could do this, but not now; Retry-After says when
    ├── Expired                 504  the budget ended in a queue, before any work was done
    └── Unavailable             503  no replica could answer
"""

from typing import ClassVar

QUOTED = 80  # characters of what a client sent that a message repeats


def quote(text: str) -> str:
    """In quotes, cut where it is long: what somebody sent, to be named in a message."""
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}…")


class RankfleetError(Exception):
    """Base of all errors. `code` is stable and meant for programs, the message for people."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


class ConfigError(RankfleetError):
    code = "config"


class CheckpointError(RankfleetError):
    code = "checkpoint"


class ScoringFailed(RankfleetError):
    code = "scoring_failed"


class InvalidPairs(RankfleetError):
    code = "invalid_pairs"


class NotHosted(RankfleetError):
    code = "not_hosted"


class ReplicaLost(RankfleetError):
    """`replica`: its name, empty where it is not known."""

    code = "replica_lost"

    def __init__(self, message: str, replica: str = "") -> None:
        super().__init__(message)
        self.replica = replica

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.replica)


class RequestError(RankfleetError):
    status = 400
    code = "bad_request"


class InvalidRequest(RequestError):
    status = 422
    code = "invalid_request"


class Infeasible(RequestError):
    status = 422
    code = "infeasible"


class SlowSender(RequestError):
    status = 408
    code = "slow_sender"


class TooLarge(RequestError):
    status = 413
    code = "too_large"


class UnknownModel(RequestError):
    status = 404
    code = "unknown_model"


class NotConfigured(RequestError):
    status = 404
    code = "not_configured"


class Overloaded(RequestError):
    """`retry_after_s`: predicted seconds until the work ahead has drained."""

    status = 429
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.retry_after_s)


class Expired(RequestError):
    status = 504
    code = "expired"


class Unavailable(RequestError):
    status = 503
    code = "unavailable"
