"""How routers and Serve's proxies read HTTP."""

import logging
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.h11_impl import H11Protocol

from rankfleet.core.bounds import MAX_HEADER_BYTES


class HttpProtocol(H11Protocol):
    """HTTP/1.1 by h11, with as long headers as HAProxy passes on."""

    def __init__(self, config: uvicorn.Config, *args: Any, **kwargs: Any) -> None:
        config.h11_max_incomplete_event_size = MAX_HEADER_BYTES
        super().__init__(config, *args, **kwargs)


def read_by_h11() -> None:
    """Let the HTTP servers that Serve starts in this process read requests by h11, and take no WebSockets.

    httptools, uvicorn's first choice, ends a request that asks for another protocol at its headers and takes its body
    for the next request. HAProxy sends requests of all clients over the same connections, so that a client got answers
    to others. h11 goes on in HTTP/1.1, as RFC 9110 (section 7.8) lets a server do.

    Serve calls this before it starts a server (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`).
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = HttpProtocol  # type: ignore[assignment]
    uvicorn.config.WS_PROTOCOLS["auto"] = None
    # Any client may cause its warnings: of broken HTTP, and of protocols that are not spoken here.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
