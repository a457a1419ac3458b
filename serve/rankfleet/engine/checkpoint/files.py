"""Checkpoints on disk: a folder or a hub id becomes a config and named tensors.

Safetensors only, no remote code. Two layouts are read:

- Sentence Transformers: `modules.json` names a chain; the encoder lies at the root, the head in `1_Pooling/`,
  `2_Dense/`, … each with its own `config.json` and `model.safetensors`.
- Transformers: a `…ForSequenceClassification` model with one label.

Which of the two a folder is, and what counts of the files beside the model, is decided as Sentence Transformers 6
decides it for a CrossEncoder: `modules.json` counts where `config_sentence_transformers.json` says that a CrossEncoder
was saved (`is_cross_encoder`). The activation that is saved with it (Sentence Transformers 3:
`sbert_ce_default_activation_function`, 4 and 5: `sentence_transformers` in config.json, 6: `activation_fn`) is left
alone: scores are raw logits here, and who shows them decides what to make of them.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.digest import digest_of
from rankfleet.engine.checkpoint.weights import META, Weights, one_line

SCALE_SUFFIX = ".int8_scale"
MODELS = Path(__file__).parents[2] / "models"  # checkpoints that ship with the package
DESCRIPTION = ["*.json", "*.txt", "*.model", "*.jinja"]  # at the root: enough to tokenize
# Of the files that DESCRIPTION fetches, those without a bearing on scores. The index of shards is of the weights: it
# changes when the same model is saved in other pieces.
NOT_OF_THE_MODEL = [".*", "*.index.json", "README*", "LICENSE*"]
WEIGHTS = ["*.safetensors", "*/model.safetensors"]
ENCODER_KINDS = ("Transformer", "CrossEncoder")  # modules that are the model at the root
OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # TensorFlow's names
SETTINGS = [  # of the encoder's module; the later names are of releases before 2020
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
]
STORED = {  # by their names in a safetensors file; what is not here is none that holds weights
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_json(path: Path) -> Any:
    """The JSON in a checkpoint's file. Raises CheckpointError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {path.parent} is not a complete checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards that its index names. Raises CheckpointError where there is neither."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise CheckpointError(f"{folder} has no model.safetensors; only safetensors checkpoints are loaded")
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} has no weight_map from tensors to files") from error
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names a shard outside of its folder: {name}")
    return [folder / name for name in names]


def read_tensors(folder: Path, *, values: bool = True) -> dict[str, torch.Tensor]:
    """All tensors of `weight_files`. values: False reads the headers of the files alone, and gives tensors on the
    device `meta`, which have a shape and a type.

    A tensor stored as int8 with a float scale per row (`NAME.int8_scale`, [rows, 1]) comes back as float32.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            tensors.update(load_file(path) if values else read_headers(path))
        except Exception as error:  # safetensors raises its own class, OSError or a header error
            raise CheckpointError(f"{path} is not a readable safetensors file: {one_line(error)}") from error
    for name in [n for n in tensors if n.endswith(SCALE_SUFFIX)]:
        scale, target = tensors.pop(name), name.removesuffix(SCALE_SUFFIX)
        if target not in tensors:
            raise CheckpointError(f"{folder} has {name!r}, a scale, without the tensor {target!r}")
        tensors[target] = tensors[target].float() * scale.float()
    return tensors


def read_headers(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file without their values."""
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        return {
            name: torch.empty(part.get_shape(), dtype=STORED.get(part.get_dtype(), torch.int8), device=META)
            for name, part in slices.items()
        }


@dataclass(frozen=True)
class HeadModule:
    """One link of a Sentence Transformers head: its class name, config and tensors."""

    kind: str
    config: dict[str, Any]
    weights: Weights


@dataclass(frozen=True)
class Checkpoint:
    """A model folder. Everything is read when asked for."""

    folder: Path

    @cached_property
    def config(self) -> Any:
        """The encoder's `transformers` config, with defaults filled in as its own class fills them."""
        from transformers import AutoConfig

        if not (self.folder / "config.json").exists():
            raise CheckpointError(f"{self.folder} has no config.json: it is not a model folder")
        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # whatever is wrong in it; Transformers checks it in many places
            raise CheckpointError(f"{self.folder / 'config.json'} cannot be read: {one_line(error)}") from error

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer as Transformers builds it for this checkpoint, and Sentence Transformers lets it be."""
        from tokenizers import normalizers
        from transformers import AutoTokenizer

        try:
            loaded = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # `tokenizers` raises Exception itself
            raise CheckpointError(f"{self.folder} has no tokenizer that can be loaded: {one_line(error)}") from error
        if not loaded.is_fast:
            raise CheckpointError(f"{self.folder} has only a slow tokenizer; add its tokenizer.json")
        inner = loaded.backend_tokenizer
        if self.settings.get("do_lower_case"):
            there: Any = inner.normalizer
            steps = [] if there is None else [there]
            if isinstance(there, normalizers.Sequence):
                steps = [*there]  # type: ignore[misc]  # it can be walked through, which its stubs do not say
            if not any(isinstance(step, normalizers.Lowercase) for step in steps):
                inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
        # tokenizer.json may ask for both; a text is cut and padded by who asks for its ids.
        inner.no_truncation()
        inner.no_padding()
        return loaded

    def read_optional(self, name: str) -> dict[str, Any]:
        """The JSON object in a file at the root; empty where there is no such file."""
        path = self.folder / name
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict):
            raise CheckpointError(f"{path} is not a JSON object")
        return found

    @cached_property
    def is_cross_encoder(self) -> bool:
        """Whether a chain of modules was saved here by a CrossEncoder. Sentence Transformers gives the modules of
        another kind of model up, and so reads the folder as a plain classifier."""
        described = self.read_optional("config_sentence_transformers.json")
        return (self.folder / "modules.json").exists() and described.get("model_type") == "CrossEncoder"

    @cached_property
    def description_of_model(self) -> dict[str, Any]:
        """What a CrossEncoder saved of itself: prompts, activation; empty where it did not save a chain."""
        return self.read_optional("config_sentence_transformers.json") if self.is_cross_encoder else {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What a CrossEncoder saved of its first module; empty where it did not save a chain."""
        if not self.is_cross_encoder:
            return {}
        return next((found for name in SETTINGS if (found := self.read_optional(name))), {})

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """The settings for the tokenizer, under their key of today or that of releases before 6."""
        found: dict[str, Any] = self.settings.get("processor_kwargs") or self.settings.get("tokenizer_args") or {}
        return found

    @cached_property
    def default_prompt(self) -> str:
        """What a CrossEncoder puts before every query, unless it is told otherwise; empty where there is none."""
        name = self.description_of_model.get("default_prompt_name")
        prompts: dict[str, str | None] = self.description_of_model.get("prompts") or {}
        if name is None:
            return ""
        if name not in prompts:
            raise CheckpointError(
                f"{self.folder}: its default prompt {name!r} is not among its prompts ({', '.join(prompts) or 'none'}) "
                f"in config_sentence_transformers.json"
            )
        return prompts[name] or ""

    @cached_property
    def modules(self) -> list[tuple[str, Path]]:
        """(class name, folder) of each Sentence Transformers module; empty for a plain checkpoint."""
        path = self.folder / "modules.json"
        if not path.exists():
            return []
        try:
            modules = sorted(read_json(path), key=lambda m: m["idx"])
            named = [(m["type"].rsplit(".", 1)[-1], Path(m["path"])) for m in modules]
            foreign = [m["type"] for m in modules if not m["type"].startswith("sentence_transformers.")]
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a list of modules with idx, type and path") from error
        for _, inside in named:
            if inside.is_absolute() or ".." in inside.parts:
                raise CheckpointError(f"{path} names a module outside of its folder: {inside}")
        if foreign and self.is_cross_encoder:
            raise CheckpointError(f"{path} names a module of other code, which is not run: {foreign[0]}")
        return [(kind, self.folder / inside) for kind, inside in named]

    def head(self, *, values: bool = True) -> list[HeadModule]:
        """The modules behind the encoder, in order; empty where the head is part of the encoder's own file. values:
        as `read_tensors` has it."""
        if not self.is_cross_encoder:
            return []
        return [
            HeadModule(
                kind,
                read_json(folder / "config.json"),
                Weights(read_tensors(folder, values=values) if (folder / "model.safetensors").exists() else {}, folder),
            )
            for kind, folder in self.modules
            if kind not in ENCODER_KINDS
        ]

    def weights(self, *, values: bool = True) -> Weights:
        """The tensors of the encoder's folder, by today's names. values: as `read_tensors` has it."""
        tensors = read_tensors(self.folder, values=values)
        for old, new in OLD_NORMS.items():
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        return Weights(tensors, self.folder)

    @cached_property
    def description(self) -> str:
        """Fingerprint, 16 hexadecimal digits, of what the model is apart from its weights: the same where pairs are
        tokenized and laid out alike, in whatever folder, with or without the weights beside it.

        Counted are the files of DESCRIPTION at the root, and each module's config.json. Not counted is what says
        nothing of the model (NOT_OF_THE_MODEL), hidden files, and other folders, such as a hub's cache, exports or a
        trainer's own checkpoints.
        """
        files = [
            path
            for pattern in DESCRIPTION
            for path in self.folder.glob(pattern)
            if path.is_file() and not any(path.match(other) for other in NOT_OF_THE_MODEL)
        ]
        files += [path for _, folder in self.modules if (path := folder / "config.json").exists()]
        return digest_of(self.folder, files)

    @cached_property
    def weights_digest(self) -> str:
        """Fingerprint, 16 hexadecimal digits, of the weight files that `Scorer.load` reads, byte by byte: the same
        weights stored in another precision or in other shards give another. Takes about a second per 1.5 GB.

        Raises CheckpointError where the weights are not there.
        """
        folders = [folder for _, folder in self.modules if (folder / "model.safetensors").exists()]
        return digest_of(self.folder, [path for folder in (self.folder, *folders) for path in weight_files(folder)])


def find_checkpoint(
    model: str, revision: str | None = None, *, weights: bool = True, local_only: bool = False
) -> Checkpoint:
    """The checkpoint for a shipped name (`demo/small`), a folder, or a hub id (fetched once, then from the
    local cache; `weights=False` leaves the weights there, `local_only` looks in the cache alone).

    Raises CheckpointError that says what to do when it cannot be had.
    """
    shipped = MODELS / model
    if (shipped / "config.json").exists():
        return Checkpoint(shipped)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Checkpoint(folder)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointError(f"there is no model folder at {folder}")

    from huggingface_hub import snapshot_download

    patterns = [*DESCRIPTION, "*/config.json", *(WEIGHTS if weights else [])]

    try:
        return Checkpoint(
            Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=local_only))
        )
    except Exception as error:
        # Offline, blocked, not found, gated, wrong revision: many classes, one answer.
        raise CheckpointError(
            f"cannot get {model}{f' at {revision}' if revision else ''} from the Hugging Face hub "
            f"({type(error).__name__}).\n"
            f"  On a machine with network:  hf download {model}"
            f"{f' --revision {revision}' if revision else ''} --local-dir DIR\n"
            f"  then copy DIR here and set the tier's `model: DIR`;\n"
            f"  or use the demo tiers, which need no download:  rankfleet serve --config demo"
        ) from error
