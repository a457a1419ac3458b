"""Randomly initialised checkpoints of real and of tiny shapes, written by the libraries that define the formats."""

from pathlib import Path
from typing import Any

import torch
from benchmarks.contest.shapes import ModelShape, fill, write_byte_bpe, write_ettin
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

TEXT = [
    "The wing of an aircraft at supersonic speed heats the boundary layer.",
    "Patients were given the drug twice a day; 12% reported a headache!",
    "Бързата кафява лисица, 速い茶色の狐, ثعلب بني سريع — naïve café.",
    "def rank(query, documents): return sorted(documents, key=score)",
] * 50
MAX_PAIR = 64  # tokens of a tiny checkpoint's longest pair: short, so that texts are cut


def byte_bpe(folder: Path, max_length: int) -> None:
    """A ModernBERT-like tokenizer."""
    write_byte_bpe(folder, TEXT, 900, max_length)


def word_piece(folder: Path, max_length: int) -> None:
    """A BERT-like tokenizer: lower case, WordPiece, token type 1 for the document."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def roberta_bpe(folder: Path, max_length: int) -> None:
    """A RoBERTa-like tokenizer: <s> A </s></s> B </s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
        bos_token="<s>",
        eos_token="</s>",
    ).save_pretrained(folder)


def spread(model: torch.nn.Module, seed: int = 3) -> None:
    """Weights so far apart that a mistaken id moves scores by far more than the tolerance."""
    fill(model, seed, spread=0.15)


def tiny_bert(
    folder: Path, *, model: type = BertForSequenceClassification, max_length: int = MAX_PAIR, **options: Any
) -> Path:
    """A MiniLM-like classifier. Like all tiny ones it fits the compiled kernels."""
    small = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"intermediate_size": 128, "max_position_embeddings": 128, "num_labels": 1}
    built = model(BertConfig(**{**small, **sizes, **options}))
    spread(built)
    built.save_pretrained(folder)
    word_piece(folder, max_length)
    return folder


def tiny_roberta(folder: Path, *, xlm: bool = False, max_length: int = MAX_PAIR, **options: Any) -> Path:
    """A RoBERTa classifier, or one of XLM-RoBERTa."""
    config, model = (
        (XLMRobertaConfig, XLMRobertaForSequenceClassification)
        if xlm
        else (RobertaConfig, RobertaForSequenceClassification)
    )
    small = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"intermediate_size": 128, "max_position_embeddings": 130, "type_vocab_size": 1, "num_labels": 1}
    built = model(config(**{**small, **sizes, **options}))
    spread(built)
    built.save_pretrained(folder)
    roberta_bpe(folder, max_length)
    return folder


def tiny_modernbert_config(**options: Any) -> ModernBertConfig:
    small = {"vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1}
    sizes = {"intermediate_size": 96, "local_attention": 16, "num_labels": 1}
    special = {"pad_token_id": 3, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    return ModernBertConfig(**{**small, **sizes, **special, **options})


def tiny_modernbert(folder: Path, **options: Any) -> Path:
    """A ModernBERT classifier with windows of 8 tokens to each side."""
    built = ModernBertForSequenceClassification(tiny_modernbert_config(**options))
    spread(built)
    built.save_pretrained(folder)
    byte_bpe(folder, MAX_PAIR)
    return folder


def ettin(folder: Path, shape: str | ModelShape, max_length: int = 8192, seed: int = 12) -> Path:
    """An Ettin reranker of this shape, by name or as (hidden, layers, heads, MLP inner), in the format of the published
    ones."""
    return write_ettin(folder, shape, TEXT, 900, max_length, seed)


def bert_classifier(folder: Path, seed: int = 12) -> Path:
    """The shape of ms-marco-MiniLM-L6-v2."""
    config = BertConfig(
        vocab_size=1000,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
    )
    return _classifier(BertForSequenceClassification(config), word_piece, folder, 512, seed)


def small_bert(folder: Path, labels: int = 1) -> Path:
    """A BERT classifier of one layer, with the weights of its initialisation."""
    config = BertConfig(
        vocab_size=1000,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=labels,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_piece(folder, 128)
    return folder


def xlm_roberta_classifier(folder: Path, seed: int = 12) -> Path:
    """A small model of the kind of bge-reranker."""
    config = XLMRobertaConfig(
        vocab_size=1000,
        hidden_size=192,
        num_hidden_layers=3,
        num_attention_heads=6,
        intermediate_size=384,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=1,
    )
    return _classifier(XLMRobertaForSequenceClassification(config), roberta_bpe, folder, 512, seed)


def modernbert_classifier(folder: Path, pooling: str, seed: int = 12) -> Path:
    """A small model of the kind of gte-reranker-modernbert-base."""
    config = ModernBertConfig(
        vocab_size=1000,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=288,
        num_labels=1,
        classifier_pooling=pooling,
        pad_token_id=3,
        cls_token_id=1,
        sep_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _classifier(ModernBertForSequenceClassification(config), byte_bpe, folder, 8192, seed)


# The prompt of mxbai-rerank-v2: both texts stand between a space and a line end, which byte-level BPE merges with them.
PROMPT = (
    "{% for m in messages if m.role == 'system' %}<|im_start|>system\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>user\n"
    "query: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "document: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}\n"
    "You are a search relevance expert. Relevance:<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_bpe(folder: Path, max_length: int, prompt: str) -> None:
    """A Qwen2-like tokenizer: byte-level BPE over Qwen's words, no special tokens around texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"query: {a}\ndocument: {b}\n" for a in TEXT[:4] for b in TEXT[:4]]
    tokenizer.train_from_iterator(texts * 20, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=prompt,
    ).save_pretrained(folder)


def qwen2_reranker(
    folder: Path,
    *,
    prompt: str = PROMPT,
    max_length: int = 2048,
    tied: bool = True,
    no: bool = True,
    instruction: str | None = None,
    seed: int = 12,
) -> Path:
    """A small model of the kind of mxbai-rerank-large-v2: a causal encoder, LogitScore, and a prompt around pairs.

    `no`: whether the score is a difference of two logits. `instruction`: a default prompt, rendered as system message.
    """
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    config = Qwen2Config(
        vocab_size=1000,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=160,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config)
    fill(model, seed)
    model.tie_weights()
    model.save_pretrained(folder / "model")
    qwen_bpe(folder / "model", max_length, prompt)
    encoder = Transformer(
        str(folder / "model"),
        transformer_task="text-generation",
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    ids = encoder.tokenizer.convert_tokens_to_ids
    CrossEncoder(
        modules=[encoder, LogitScore(ids("1"), ids("0") if no else None)],
        prompts={"rank": instruction} if instruction else None,
        default_prompt_name="rank" if instruction else None,
        device="cpu",
    ).save_pretrained(str(folder / "reranker"))
    return folder / "reranker"


def _classifier(model: torch.nn.Module, write_tokenizer, folder: Path, max_length: int, seed: int) -> Path:
    fill(model, seed)
    model.save_pretrained(folder)
    write_tokenizer(folder, max_length)
    return folder
