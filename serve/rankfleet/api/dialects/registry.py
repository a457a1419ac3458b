"""Every wire format that is served, and which of them a path belongs to."""

import re

from rankfleet.api.dialects.cohere import COHERE
from rankfleet.api.dialects.dialect import Dialect, SharedRoute
from rankfleet.api.dialects.infinity import INFINITY
from rankfleet.api.dialects.jina import JINA
from rankfleet.api.dialects.native import NATIVE
from rankfleet.api.dialects.nim import NIM
from rankfleet.api.dialects.sglang import SGLANG
from rankfleet.api.dialects.tei import RERANK as TEI_RERANK
from rankfleet.api.dialects.tei import TEI
from rankfleet.api.dialects.vllm import RERANK as VLLM_RERANK
from rankfleet.api.dialects.vllm import VLLM
from rankfleet.api.dialects.voyage import VOYAGE

DIALECTS = (NATIVE, COHERE, JINA, VOYAGE, TEI, VLLM, INFINITY, SGLANG, NIM)
SHARED = (
    SharedRoute(
        "/rerank",
        "Rank as Text Embeddings Inference (`texts`) or as vLLM (`documents`)",
        {"texts": TEI_RERANK, "documents": VLLM_RERANK},
        (TEI, VLLM, NATIVE),
    ),
)
PATHS = {
    **{route.path: dialect for dialect in DIALECTS for route in dialect.routes},
    **{about.path: dialect for dialect in DIALECTS for about in dialect.about},
    **{shared.path: NATIVE for shared in SHARED},
}
BASES = {dialect.base: dialect for dialect in DIALECTS if dialect.base}
STATUS_PATHS = {"/health", "/healthz", "/readyz", "/v1/models"}  # below every base path, too
MAX_PATH = 2048  # characters; no path is longer, and to match one takes time that grows with its square
REPEATED = re.compile(r"(?:/v[12])+(?=/v[12]/)")
HOSTED_NIM = re.compile(r"/v1/retrieval/.+/reranking$")  # NVIDIA's hosted models; the body names the model, too


def dialect_of(path: str) -> Dialect:
    """The dialect of a path: of its route, else of what it begins with; the native one for others."""
    return PATHS.get(path) or BASES.get(split_base(path)[0], NATIVE)


def canonical_path(path: str) -> str:
    """The path that is meant: without a slash at its end, with the last of several versions (clients append theirs to a
    base URL that has one), as NVIDIA's microservices have it where it is one of its cloud, and without the base path in
    front of a status path."""
    path = path.rstrip("/") or "/"
    if path in PATHS or len(path) > MAX_PATH:
        return path
    path = HOSTED_NIM.sub("/v1/ranking", REPEATED.sub("", path))
    base, rest = split_base(path)
    return rest if base in BASES and rest in STATUS_PATHS else path


def split_base(path: str) -> tuple[str, str]:
    """/tei/health as /tei and /health."""
    base, slash, rest = path[1:].partition("/")
    return f"/{base}", slash + rest
