"""Calls whose errors are logged and never raised."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

log = logging.getLogger("ray.serve")

P = ParamSpec("P")


def quietly(call: Callable[P, object]) -> Callable[P, None]:
    """`call`, whose errors are logged and not raised: figures about a request never fail it."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception:
            log.exception("%s failed; the request goes on", getattr(call, "__qualname__", call))

    return guarded
