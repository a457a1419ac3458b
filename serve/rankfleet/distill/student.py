"""Students: the first layers of an encoder under the Ettin head, over a vocabulary cut to size."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def pick_vocabulary(tokenizer: Tokenizer, texts: Iterable[str], size: int) -> list[str]:
    """The `size` WordPiece tokens to keep, in their old order: specials, every ASCII character and its
    continuation (so that any ASCII word still has a spelling), then the most frequent in `texts`."""
    vocabulary = tokenizer.get_vocab()
    counts: Counter[str] = Counter()
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        counts.update(encoding.tokens)
    characters = [piece for code in range(33, 127) for piece in (chr(code), f"##{chr(code)}")]
    by_frequency = [token for token, _ in counts.most_common()]
    # Texts may use fewer tokens than asked for; BERT's list puts frequent whole words first.
    the_rest = sorted((t for t in vocabulary if not t.startswith("[unused")), key=vocabulary.__getitem__)
    wanted = dict.fromkeys(t for t in (*SPECIAL, *characters, *by_frequency, *the_rest) if t in vocabulary)
    return sorted(list(wanted)[:size], key=vocabulary.__getitem__)


def cut_vocabulary(tokenizer: Tokenizer, kept: list[str]) -> Tokenizer:
    """The same WordPiece tokenizer over `kept` only, ids renumbered in that order."""
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    new_ids = {token: i for i, token in enumerate(kept)}
    spec["model"]["vocab"] = new_ids
    spec["added_tokens"] = [added | {"id": new_ids[added["content"]]} for added in spec["added_tokens"]]
    post = spec["post_processor"]
    if post["type"] == "BertProcessing":
        post["sep"][1], post["cls"][1] = new_ids[post["sep"][0]], new_ids[post["cls"][0]]
    for name, special in post.get("special_tokens", {}).items():
        special["ids"] = [new_ids[name]]
    return Tokenizer.from_str(json.dumps(spec))


def student_of_encoder(
    source: Path, layers: int, texts: Iterable[str], vocabulary_size: int, max_tokens: int = 512
) -> "CrossEncoder":
    """A CrossEncoder of the first `layers` layers of the BERT checkpoint at `source` and a fresh Ettin head
    (CLS → Dense → GELU → LayerNorm → Dense to one logit)."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from transformers import BertModel, PreTrainedTokenizerFast

    full = Tokenizer.from_file(str(source / "tokenizer.json"))
    full.no_truncation()
    full.no_padding()
    kept = pick_vocabulary(full, texts, vocabulary_size)
    old_ids = [full.token_to_id(token) for token in kept]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=cut_vocabulary(full, kept),
        model_max_length=max_tokens,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL},
    )
    # One pass over scores that hold no label noise needs no dropout.
    encoder = BertModel.from_pretrained(
        source,
        add_pooling_layer=False,
        dtype=torch.float32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    encoder.encoder.layer = encoder.encoder.layer[:layers]
    words = encoder.get_input_embeddings().weight.detach()[old_ids]
    encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(words.clone(), freeze=False))
    encoder.config.num_hidden_layers = layers
    encoder.config.vocab_size = len(kept)
    encoder.config.pad_token_id = tokenizer.pad_token_id

    hidden = encoder.config.hidden_size
    with tempfile.TemporaryDirectory() as folder:  # Transformer is only ever built from a folder
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=max_tokens)
    return CrossEncoder(
        modules=[
            transformer,
            Pooling(hidden, pooling_mode="cls"),
            Dense(hidden, hidden, bias=False, activation_function=torch.nn.GELU()),
            LayerNorm(hidden),
            Dense(hidden, 1, bias=True, activation_function=torch.nn.Identity(), module_output_name="scores"),
        ],
        num_labels=1,
        activation_fn=torch.nn.Identity(),
        device="cpu",
    )


def student_of_reranker(source: Path, layers: int) -> "CrossEncoder":
    """The first `layers` layers of the BERT-shaped reranker at `source`, with its head: a start that has
    learned to compare already."""
    from sentence_transformers import CrossEncoder

    student = CrossEncoder(str(source), device="cpu", model_kwargs={"dtype": torch.float32})
    encoder = student[0].model
    encoder.encoder.layer = encoder.encoder.layer[:layers]
    encoder.config.num_hidden_layers = layers
    return student
