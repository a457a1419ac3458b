"""GET /console: the files of the page. What the page shows, it asks of the public API."""

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

WEB = Path(__file__).parent / "web"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Only the router's own files and API. No text can become HTML: trusted types let no script parse any.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser asks each time, and gets 304 until Rankfleet is updated
}


def add_console(api: FastAPI) -> None:
    """Add GET /console, and below it the files that the page loads."""
    files = {str(path.relative_to(WEB)): path for path in WEB.rglob("*") if path.suffix in MEDIA_TYPES}

    @api.get("/console", include_in_schema=False)
    @api.head("/console", include_in_schema=False)
    async def page(request: Request) -> Response:
        return file_response(files["index.html"], request)

    @api.get("/console/{name:path}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return file_response(files[name], request)


def file_response(path: Path, request: Request) -> Response:
    """A file, or 304 where the client has it. Read anew each time, so that an edit shows when the page is reloaded."""
    content = path.read_bytes()
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[path.suffix])
