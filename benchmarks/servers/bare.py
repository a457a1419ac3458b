"""What one would write on Ray Serve without Rankfleet:  python -m benchmarks.servers.bare MODEL PORT THREADS"""

import asyncio
import sys
from typing import Any

import ray
import torch
from ray import serve
from sentence_transformers import CrossEncoder
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=100)
class Reranker:
    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = CrossEncoder(model, device="cpu", activation_fn=torch.nn.Identity())

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.0)
    async def score(self, bodies: list[dict[str, Any]]) -> list[list[float]]:
        pairs = [(body["query"], document) for body in bodies for document in body["documents"]]
        scores = await asyncio.to_thread(self.model.predict, pairs, batch_size=4, show_progress_bar=False)
        each = iter(scores.tolist())
        return [[next(each) for _ in body["documents"]] for body in bodies]

    async def __call__(self, request: Request) -> dict[str, Any]:
        scores: list[float] = await self.score(await request.json())
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return {"results": [{"index": i, "relevance_score": scores[i]} for i in order]}


if __name__ == "__main__":
    model, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    app = Reranker.bind(model, threads)  # type: ignore[attr-defined]
    try:
        serve.run(app, route_prefix="/rerank", blocking=True)
    finally:
        serve.shutdown()  # else HAProxy stays, and with it its ports, which the next server needs
