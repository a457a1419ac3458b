"""Every wire format that is served."""

from rankfleet.api.dialects.dialect import Dialect
from rankfleet.api.dialects.native import NATIVE

DIALECTS = (NATIVE,)
PATHS = {route.path: dialect for dialect in DIALECTS for route in dialect.routes}


def dialect_of(path: str) -> Dialect:
    """The dialect of a path; the native one for a path that is not known."""
    return PATHS.get(path, NATIVE)
