"""Checkpoints on disk: config, tokenizer, settings and named tensors of a folder or hub id.

Safetensors only, no remote code. Two formats are read:

- Sentence Transformers: `modules.json` lists a chain of modules. The encoder is at the root, the head in `1_Pooling/`,
  `2_Dense/` and so on, each with its own `config.json` and `model.safetensors`.
- Transformers: a `...ForSequenceClassification` model with one label.

Which format a folder has, and which of its files apply, is decided as in Sentence Transformers 6 for a CrossEncoder:
`modules.json` applies if `config_sentence_transformers.json` says that a CrossEncoder was saved (`is_cross_encoder`).
The activation that is saved with it (Sentence Transformers 3: `sbert_ce_default_activation_function`, 4 and 5:
`sentence_transformers` in config.json, 6: `activation_fn`) is not applied: scores are raw logits here, and whoever
shows them converts them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rankfleet.core.errors import CheckpointError
from rankfleet.core.model_ids import may_be_hub_id
from rankfleet.engine.checkpoint.digest import digest_of
from rankfleet.engine.checkpoint.hub import HubModel, check_space, fetch, look_up
from rankfleet.engine.checkpoint.tensors import read_json, read_tensors, weight_files
from rankfleet.engine.checkpoint.weights import Weights, one_line

MODELS = Path(__file__).parents[2] / "models"  # checkpoints that ship with the package
PRECISION_COSTS = "precision_costs.json"
DESCRIPTION = ["*.json", "*.txt", "*.model", "*.jinja"]  # at the root: enough to tokenize
# Files that match DESCRIPTION and do not change scores. The index of shards belongs to the weights: it changes when the
# same model is saved in other shards.
NOT_OF_THE_MODEL = [".*", "*.index.json", "README*", "LICENSE*", PRECISION_COSTS]
WITHOUT_WEIGHTS = [*DESCRIPTION, "*/config.json"]  # what of a repository on the hub is downloaded
WHOLE = [*WITHOUT_WEIGHTS, "*.safetensors"]  # in folders too
ENCODER_KINDS = ("Transformer", "CrossEncoder")  # modules that are the encoder at the root
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


@dataclass(frozen=True)
class HeadModule:
    """One module of a Sentence Transformers head. `kind`: its class name."""

    kind: str
    config: dict[str, Any]
    weights: Weights


@dataclass(frozen=True)
class Checkpoint:
    """A model folder. Its files are read on first access."""

    folder: Path

    @cached_property
    def config(self) -> Any:
        """The encoder's Transformers config, with the defaults of its class."""
        from transformers import AutoConfig

        if not (self.folder / "config.json").exists():
            raise CheckpointError(f"{self.folder} has no config.json: it is not a model folder")
        try:
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # Transformers validates it in many places
            raise CheckpointError(f"{self.folder / 'config.json'} cannot be read: {one_line(error)}") from error

    @cached_property
    def tokenizer(self) -> Any:
        """The fast tokenizer that Transformers builds for this checkpoint, as Sentence Transformers changes it."""
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
            normalizer: Any = inner.normalizer
            steps = [] if normalizer is None else [normalizer]
            if isinstance(normalizer, normalizers.Sequence):
                steps = [*normalizer]  # type: ignore[misc]  # it is iterable, which its stubs do not say
            if not any(isinstance(step, normalizers.Lowercase) for step in steps):
                inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
        # tokenizer.json may ask for both; here pairs are truncated later, and never padded.
        inner.no_truncation()
        inner.no_padding()
        return loaded

    def read_optional(self, name: str) -> dict[str, Any]:
        """The JSON object in a file at the root; empty if there is no such file."""
        path = self.folder / name
        found = read_json(path) if path.exists() else {}
        if not isinstance(found, dict):
            raise CheckpointError(f"{path} is not a JSON object")
        return found

    @cached_property
    def is_cross_encoder(self) -> bool:
        """Whether a CrossEncoder saved its chain of modules here.

        Sentence Transformers ignores the modules of any other kind of model, and loads the folder as a classifier.
        """
        described = self.read_optional("config_sentence_transformers.json")
        return (self.folder / "modules.json").exists() and described.get("model_type") == "CrossEncoder"

    @cached_property
    def description_of_model(self) -> dict[str, Any]:
        """A CrossEncoder's description of itself, such as prompts and activation; empty for a plain classifier."""
        return self.read_optional("config_sentence_transformers.json") if self.is_cross_encoder else {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """A CrossEncoder's settings of its first module; empty for a plain classifier."""
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
        """What a CrossEncoder puts before every query by default; empty if it has no such prompt."""
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
    def precision_costs(self) -> dict[str, float]:
        """nDCG@10 that this model loses against float32 by computing in another precision, as `benchmarks/precision.py`
        measured it; without a precision that was not measured."""
        costs = self.read_optional(PRECISION_COSTS)
        if not all(isinstance(cost, int | float) for cost in costs.values()):
            raise CheckpointError(f"{self.folder / PRECISION_COSTS} does not hold one number for each precision")
        return costs

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
        """The modules after the encoder, in order; empty if the head is in the encoder's own file.

        `values`: as in `read_tensors`.
        """
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
        """The tensors of the encoder's folder, by today's names. `values`: as in `read_tensors`."""
        tensors = read_tensors(self.folder, values=values)
        for old, new in OLD_NORMS.items():
            tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
        return Weights(tensors, self.folder)

    @cached_property
    def description(self) -> str:
        """Fingerprint, 16 hexadecimal digits, of the model without its weights: the same in any folder in which pairs
        are tokenized and laid out in the same way, with or without weights beside it.

        It covers the files of DESCRIPTION at the root and each module's config.json. It does not cover files that do
        not describe the model (NOT_OF_THE_MODEL), hidden files, and other folders, such as a hub's cache, exports or a
        trainer's checkpoints.
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
        """Fingerprint, 16 hexadecimal digits, of the bytes of the weight files that `Scorer.load` reads.

        The same weights in another precision or in other shards have another fingerprint. Takes about a second per
        1.5 GB. Raises CheckpointError if the weights are missing.
        """
        folders = [folder for _, folder in self.modules if (folder / "model.safetensors").exists()]
        return digest_of(self.folder, [path for folder in (self.folder, *folders) for path in weight_files(folder)])


def local_checkpoint(model: str) -> Checkpoint | None:
    """The checkpoint of a shipped name (`demo/small`) or of a folder; None for the id of a model on the hub.

    Raises CheckpointError for anything else.
    """
    shipped = MODELS / model
    if (shipped / "config.json").exists():
        return Checkpoint(shipped)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Checkpoint(folder)
    if not may_be_hub_id(model):
        raise CheckpointError(f"there is no model folder at {folder}")
    return None


def find_checkpoint(
    model: str,
    revision: str | None = None,
    *,
    weights: bool = True,
    local_only: bool = False,
    progress: Callable[[int], object] = lambda bytes_done: None,
) -> Checkpoint:
    """The checkpoint of a shipped name (`demo/small`), a folder, or a hub id.

    A hub id is downloaded once, then read from the local cache. `weights`: False leaves the weights on the hub.
    `local_only`, `progress`: as in `hub.fetch`.

    Raises CheckpointError that says what to do if it cannot be found or downloaded.
    """
    patterns = WHOLE if weights else WITHOUT_WEIGHTS
    return local_checkpoint(model) or Checkpoint(fetch(model, revision, patterns, local_only, progress))


def look_up_all(wanted: Mapping[str, tuple[str, str | None]]) -> dict[str, HubModel]:
    """What the models take that are on the hub. `wanted`: model and revision, by tier or by the model's own name.

    Raises CheckpointError that says for each model that cannot be had what to do, or that the disk has no room.
    """
    found, faults = dict[str, HubModel](), []
    for name, (model, revision) in wanted.items():
        try:
            if local_checkpoint(model) is None:
                found[name] = look_up(model, revision, WHOLE)
        except CheckpointError as error:
            faults.append(str(error) if name.startswith(model) else f"tier {name}: {error}")
    if faults:
        *others, last = faults  # what to do, from the second line on, is mostly the same
        raise CheckpointError("\n".join([*(fault.splitlines()[0] for fault in others), last]))
    check_space(set(found.values()))
    return found
