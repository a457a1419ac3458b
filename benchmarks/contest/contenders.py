"""The contenders: this engine and its peers, each with the settings that make it fastest.

Each contender is loaded in a process of its own (`benchmarks.contest.worker`). All take texts and return raw logits, so
their times include tokenizing. Peers sort by length, pad to the longest pair of a batch, and run at their fastest batch
size.
"""

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rankfleet.bench.sample_texts import SampleRequest

INSTALL = "pip install 'rankfleet[bench]'"


@dataclass(frozen=True)
class ContestEntry:
    """One contender in one precision. name: as in the figures; peer: the package, `rankfleet` for this engine."""

    name: str
    peer: str
    dtype: str


@dataclass(frozen=True)
class Peer:
    """What a peer needs and offers."""

    packages: tuple[str, ...]  # modules that must be importable
    dtypes: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)


PEERS = {
    "sentence-transformers": Peer(("sentence_transformers",), ("float32", "bfloat16"), ("cpu", "cuda")),
    "onnxruntime": Peer(("onnxruntime", "onnx", "onnxscript", "sentence_transformers"), ("float32",)),
    "openvino": Peer(("openvino", "onnx", "onnxscript", "sentence_transformers"), ("float32", "bfloat16")),
}
SHORT = {"float32": "fp32", "bfloat16": "bf16", "int8": "int8"}


def absent(peer: str, device: str) -> str | None:
    """Why this peer cannot take part, and what to do about it; None where it can."""
    missing = [name for name in PEERS[peer].packages if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed:  {INSTALL}"
    if device not in PEERS[peer].devices:
        return f"runs on {' and '.join(PEERS[peer].devices)} here, not on {device}"
    return None


def entries_of(peer: str) -> list[ContestEntry]:
    """One entry for each precision of a peer."""
    return [ContestEntry(f"{peer}-{SHORT[dtype]}", peer, dtype) for dtype in PEERS[peer].dtypes]


class Contender(Protocol):
    """Scores texts with one model in one precision."""

    batches: bool  # whether it has a batch size to choose
    versions: dict[str, str]

    def score(self, request: SampleRequest, batch_size: int) -> np.ndarray:
        """Raw logits, [documents]."""
        ...


class Rankfleet:
    """This engine, which packs pairs itself."""

    batches = False

    def __init__(self, model: str, dtype: str, device: str, threads: int, max_tokens: int) -> None:
        import torch

        from rankfleet.engine.checkpoint.files import find_checkpoint
        from rankfleet.engine.runtime.scorer import Reranker

        torch.set_num_threads(threads)
        self.reranker = Reranker.load(find_checkpoint(model), dtype=dtype, device=device, max_tokens=max_tokens)
        self.versions = {name: version(name) for name in ("rankfleet", "torch")}

    def score(self, request: SampleRequest, batch_size: int) -> np.ndarray:
        return self.reranker.score(request.query, request.documents)

    def tokenize_s(self, request: SampleRequest) -> float:
        """Seconds from texts to laid-out pairs."""
        started = time.perf_counter()
        query, *documents = self.reranker.tokenizer.encode([request.query, *request.documents])
        self.reranker.tokenizer.pair(query, documents)
        return time.perf_counter() - started


class SentenceTransformers:
    """`CrossEncoder.predict`; on a GPU with Flash Attention 2 where that is installed."""

    batches = True

    def __init__(self, model: str, dtype: str, device: str, threads: int, max_tokens: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.model = load_cross_encoder(model, dtype, device, max_tokens)
        self.versions = {name: version(name) for name in ("sentence-transformers", "transformers", "torch")}

    def score(self, request: SampleRequest, batch_size: int) -> np.ndarray:
        import torch

        pairs = [(request.query, document) for document in request.documents]
        scores = self.model.predict(
            pairs, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float32)


def load_cross_encoder(model: str, dtype: str, device: str, max_tokens: int) -> Any:
    import torch
    from sentence_transformers import CrossEncoder

    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if device == "cuda" and dtype == "bfloat16" and importlib.util.find_spec("flash_attn"):
        options["attn_implementation"] = "flash_attention_2"
    return CrossEncoder(model, device=device, max_length=max_tokens, model_kwargs=options)


class PaddedPeer:
    """Base of ONNX Runtime and OpenVINO: all texts tokenized at once by Transformers' tokenizer, then padded
    batches."""

    batches = True

    def __init__(self, model: str, max_tokens: int) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.max_tokens = max_tokens
        self.inputs: list[str] = []

    def run(self, features: dict[str, np.ndarray]) -> np.ndarray:
        """Logits of one padded batch."""
        raise NotImplementedError

    def score(self, request: SampleRequest, batch_size: int) -> np.ndarray:
        scores = np.empty(len(request.documents), dtype=np.float32)
        for rows, features in self.padded(request, batch_size):
            scores[rows] = self.run(features).reshape(-1)
        return scores

    def padded(self, request: SampleRequest, batch_size: int) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Batches in order of length: the rows of the request, and inputs, int64 [rows, longest of them]."""
        encoded = self.tokenizer(
            [request.query] * len(request.documents), request.documents, truncation=True, max_length=self.max_tokens
        )
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        padding = {"input_ids": self.tokenizer.pad_token_id or 0}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            features = {
                name: np.full((len(rows), lengths[rows[-1]]), padding.get(name, 0), dtype=np.int64)
                for name in self.inputs
            }
            for at, row in enumerate(rows):
                for name, values in features.items():
                    values[at, : lengths[row]] = encoded[name][row]
            yield rows, features


class OnnxRuntime(PaddedPeer):
    def __init__(self, model: str, dtype: str, device: str, threads: int, max_tokens: int) -> None:
        import onnxruntime

        super().__init__(model, max_tokens)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Its threads spin while they wait for work. That is faster within a run, but would slow the next contender.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(str(onnx_file(model)), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.versions = {"onnxruntime": version("onnxruntime")}

    def run(self, features: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(self.session.run(None, features)[0])


class OpenVino(PaddedPeer):
    def __init__(self, model: str, dtype: str, device: str, threads: int, max_tokens: int) -> None:
        import openvino

        super().__init__(model, max_tokens)
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(onnx_file(model)),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",  # all threads on one batch
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
                "INFERENCE_NUM_THREADS": threads,
            },
        )
        self.request = compiled.create_infer_request()
        self.inputs = [value.get_any_name() for value in compiled.inputs]
        self.versions = {"openvino": version("openvino")}

    def run(self, features: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(self.request.infer(features, share_inputs=True)[0])


def onnx_file(model: str) -> Path:
    """Path of the graph that `export_onnx` writes for a model folder."""
    return Path(model) / "rankfleet-bench.onnx"


def export_onnx(model: str, max_tokens: int) -> None:
    """Export encoder and head as one graph of variable batch and length: token ids and mask in, logits [pairs] out."""
    import torch

    cross_encoder = load_cross_encoder(model, "float32", "cpu", max_tokens)
    probe = cross_encoder.preprocess([("a query", "one document"), ("a query", "another document, longer than it")])
    names = [name for name, value in probe.items() if isinstance(value, torch.Tensor)]

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = cross_encoder

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            features = dict(zip(names, values, strict=True))
            for module in self.chain:
                features = module(features)
            return features["scores"].squeeze(-1)

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    torch.onnx.export(
        Graph().eval(),
        tuple(probe[name] for name in names),
        str(onnx_file(model)),
        input_names=names,
        output_names=["scores"],
        dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
        dynamo=True,
        external_data=True,
        verbose=False,
    )


CONTENDERS: dict[str, type] = {
    "rankfleet": Rankfleet,
    "sentence-transformers": SentenceTransformers,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}
