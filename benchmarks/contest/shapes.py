"""Rerankers of the published sizes with random weights, written by the libraries that define the formats.

Their speed is that of the published models; their scores mean nothing.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ModelShape = tuple[int, int, int, int]  # hidden, layers, heads, MLP inner
ETTIN: dict[str, ModelShape] = {
    "17m": (256, 7, 4, 384),
    "32m": (384, 10, 6, 576),
    "68m": (512, 19, 8, 768),
    "150m": (768, 22, 12, 1152),
    "400m": (1024, 28, 16, 2624),
    "1b": (1792, 28, 28, 3840),
}
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def write_byte_bpe(folder: Path, texts: Iterable[str], vocabulary: int, max_length: int) -> None:
    """Write a tokenizer like ModernBERT's, trained on `texts`: NFC, byte-level BPE, [CLS] A [SEP] B [SEP]."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def fill(model: torch.nn.Module, seed: int, spread: float = 0.05) -> None:
    """Fill a model with random weights of standard deviation `spread`, and norms near 1, so that a wrong norm shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, spread, generator=generator)


def modernbert_config(shape: str | ModelShape, **options: Any) -> Any:
    """A ModernBERT of this shape. The embeddings have the published 50368 rows, even where the tokenizer uses fewer."""
    from transformers import ModernBertConfig

    hidden, layers, heads, inner = ETTIN[shape] if isinstance(shape, str) else shape
    return ModernBertConfig(
        vocab_size=50368,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        pad_token_id=3,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )


def write_classifier(folder: Path, shape: str, texts: Iterable[str], vocabulary: int, max_length: int) -> None:
    """Write a ModernBERT sequence classifier with one label: the format that every server of rerankers can load."""
    from transformers import ModernBertForSequenceClassification

    config = modernbert_config(shape, num_labels=1, max_position_embeddings=max_length, classifier_pooling="cls")
    model = ModernBertForSequenceClassification(config)
    fill(model, seed=12)
    model.save_pretrained(folder)
    write_byte_bpe(folder, texts, vocabulary, max_length)
    saved = folder / "tokenizer_config.json"  # a name of the class that Transformers 4 knows too
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def write_ettin(
    folder: Path,
    shape: str | ModelShape,
    texts: Iterable[str],
    vocabulary: int,
    max_length: int = 8192,
    seed: int = 12,
) -> Path:
    """Write an Ettin reranker of this shape in the layout of the published ones; returns its folder inside `folder`."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from transformers import ModernBertModel

    config = modernbert_config(shape)
    hidden = config.hidden_size
    encoder_folder = folder / "encoder"
    with torch.device("meta"):
        encoder = ModernBertModel(config)
    encoder.to_empty(device="cpu")
    fill(encoder, seed)
    encoder.save_pretrained(encoder_folder)
    del encoder
    write_byte_bpe(encoder_folder, texts, vocabulary, max_length)
    head = [
        Pooling(hidden, pooling_mode="cls"),
        Dense(hidden, hidden, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(hidden),
        Dense(hidden, 1, bias=True, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    for module in head:
        fill(module, seed + 1)
    CrossEncoder(
        modules=[Transformer(str(encoder_folder)), *head],
        num_labels=1,
        activation_fn=torch.nn.Identity(),
        device="cpu",
    ).save_pretrained(str(folder / "reranker"))
    return folder / "reranker"
