"""Calls whose errors are logged and not raised."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

log = logging.getLogger("ray.serve")

P = ParamSpec("P")


def quietly(call: Callable[P, object]) -> Callable[P, None]:
    """The same call, but its errors are logged and not raised. For metrics, which must not fail a request."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception:
            log.exception("%s failed; the request goes on", getattr(call, "__qualname__", call))

    return guarded
