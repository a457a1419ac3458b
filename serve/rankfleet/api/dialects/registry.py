"""Every wire format that is served."""

from rankfleet.api.dialects.dialect import Dialect
from rankfleet.api.dialects.native import NATIVE


def by_path(*dialects: Dialect) -> dict[str, Dialect]:
    """Which dialect each path belongs to. Raises ValueError where two routes have the same path."""
    owners: dict[str, Dialect] = {}
    for dialect in dialects:
        for route in dialect.routes:
            if (owner := owners.get(route.path)) is not None:
                raise ValueError(
                    f"dialects {owner.name} and {dialect.name} both have a route for {route.path}; "
                    "give it to one of them, and let that one tell the bodies apart"
                )
            owners[route.path] = dialect
    return owners


DIALECTS = (NATIVE,)
PATHS = by_path(*DIALECTS)


def dialect_of(path: str) -> Dialect:
    """The dialect of a path; the native one for a path that is not known."""
    return PATHS.get(path, NATIVE)
