"""Cross-encoders as people have saved them: builders of checkpoint folders, and edits of what a builder made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from tests.engine.checkpoints import (
    MAX_PAIR,
    TEXT,
    byte_bpe,
    spread,
    tiny_bert,
    tiny_modernbert_config,
    tiny_roberta,
)

Build = Callable[[Path], Path]
WORDS = ("how", "does", "the", "wing", "heat", "boundary", "layer", "of", "an", "aircraft")
PROMPT: dict[str, Any] = {"prompts": {"rank": "Rank these: ", "other": "x"}, "default_prompt_name": "rank"}
NO_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}


def saved(folder: Path, build: Build = tiny_bert, **options: Any) -> Path:
    """A classifier saved again by `CrossEncoder.save_pretrained` of Sentence Transformers 6."""
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(build(folder / "plain")), device="cpu", **options).save_pretrained(str(folder / "saved"))
    return folder / "saved"


def chain(
    folder: Path,
    *,
    encoder: str = "modernbert",
    pooling: str = "cls",
    activation: torch.nn.Module | None = None,
    last: torch.nn.Module | None = None,
    between: Callable[[], list[Any]] = list,
    **options: Any,
) -> Path:
    """Encoder, Pooling, Dense, LayerNorm, Dense, saved as the Ettin rerankers are."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    if encoder == "modernbert":
        from transformers import ModernBertModel

        model = ModernBertModel(tiny_modernbert_config())
        spread(model)
        model.save_pretrained(folder / "encoder")
        byte_bpe(folder / "encoder", MAX_PAIR)
    else:
        tiny_bert(folder / "encoder", model=BertModel)
    head = [
        Pooling(64, pooling_mode=pooling),
        Dense(64, 64, bias=False, activation_function=activation or torch.nn.GELU()),
        LayerNorm(64),
        *between(),
        Dense(64, 1, activation_function=last or torch.nn.Identity(), module_output_name="scores"),
    ]
    for at, module in enumerate(head):
        spread(module, at)
    modules = [Transformer(str(folder / "encoder")), *head]
    CrossEncoder(modules=modules, num_labels=1, device="cpu", **options).save_pretrained(str(folder / "saved"))
    return folder / "saved"


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object; a value of `...` removes the key."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in {**content, **changes}.items() if value is not ...}))


def edited(build: Build, name: str, **changes: Any) -> Build:
    """The builder, then `edit_json` of this file."""

    def built(folder: Path) -> Path:
        edit_json((made := build(folder)) / name, **changes)
        return made

    return built


def with_tensors(build: Build, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Build:
    """The builder, then a change of its tensors."""

    def built(folder: Path) -> Path:
        path = (made := build(folder)) / "model.safetensors"
        save_file({n: t.contiguous() for n, t in change(load_file(path)).items()}, path, metadata={"format": "pt"})
        return made

    return built


def with_json(build: Build, name: str, change: Callable[[Any], None]) -> Build:
    """The builder, then a change of the content of one of its JSON files."""

    def built(folder: Path) -> Path:
        path = (made := build(folder)) / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return made

    return built


def with_tokenizer(build: Build, change: Callable[[dict[str, Any]], None]) -> Build:
    return with_json(build, "tokenizer.json", change)


def typed(*types: int) -> Callable[[dict[str, Any]], None]:
    """Sets the segment ids of [CLS], query, [SEP], document, [SEP]."""

    def change(settings: dict[str, Any]) -> None:
        for piece, number in zip(settings["post_processor"]["pair"], types, strict=True):
            next(iter(piece.values()))["type_id"] = number

    return change


def old_norms(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Norms under the names of TensorFlow's BERT."""
    pairs = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for new, old in pairs:
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


def buffers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the buffers that older releases of Transformers saved."""
    return tensors | {
        "bert.embeddings.position_ids": torch.arange(128)[None],
        "bert.embeddings.token_type_ids": torch.zeros(1, 128, dtype=torch.long),
        "dropout.mask": torch.full((3,), float("inf")),
    }


def stored_as(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def sharded(folder: Path) -> Path:
    """A BERT whose weights are in several files."""
    model = BertForSequenceClassification.from_pretrained(tiny_bert(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len([*folder.glob("model-*.safetensors")]) > 1
    return folder


def cut_and_padded(settings: dict[str, Any]) -> None:
    """Truncation and padding in tokenizer.json, which many embedding models have."""
    settings["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    settings["padding"] = {
        "strategy": {"Fixed": 16},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }


def case_kept(settings: dict[str, Any]) -> None:
    """A tokenizer that does not change texts to lower case."""
    settings["normalizer"]["lowercase"] = False


def unigram(folder: Path) -> Path:
    """XLM-R with its own kind of tokenizer, which merges a text with the characters before it."""
    tiny_roberta(folder, xlm=True)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {
        "unk_token": "<unk>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_PAIR,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    ).save_pretrained(folder)
    return folder


def few_words(folder: Path) -> Path:
    """A BERT with a vocabulary of 15 words."""
    tiny_bert(folder, vocab_size=15)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MAX_PAIR, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def without_modules(folder: Path) -> Path:
    """A CrossEncoder with a default prompt whose modules.json is missing."""
    made = saved(folder, prompts={"rank": "Rank these: "}, default_prompt_name="rank")
    (made / "modules.json").unlink()
    return made


def embedding_model(folder: Path, build: Build) -> Path:
    """A folder with the modules of a SentenceTransformer."""
    made = build(folder)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (made / "modules.json").write_text(json.dumps(modules))
    (made / "1_Pooling").mkdir()
    edit_json(made / "1_Pooling" / "config.json", word_embedding_dimension=64, pooling_mode_mean_tokens=True)
    edit_json(made / "config_sentence_transformers.json", prompts={"q": "query: "}, default_prompt_name="q")
    return made


def modules(build: Build, change: Callable[[list[dict[str, Any]]], None]) -> Build:
    """The builder, then a change of its list of modules."""
    return with_json(build, "modules.json", change)


def normalize() -> list[Any]:
    """Modules that have no weights."""
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Dropout

    return [Normalize(), Dropout(0.3)]
