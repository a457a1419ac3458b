"""Students: a few layers of a BERT encoder under the Ettin head, over a vocabulary cut to size."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

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
    for text in texts:
        counts.update(tokenizer.encode(text, add_special_tokens=False).tokens)
    characters = [piece for code in range(33, 127) for piece in (chr(code), f"##{chr(code)}")]
    wanted = dict.fromkeys([*SPECIAL, *(p for p in characters if p in vocabulary)])
    for token, _ in counts.most_common():
        if len(wanted) >= size:
            break
        wanted[token] = None
    # Texts may use fewer tokens than asked for; WordPiece lists its pieces by falling frequency.
    for token in sorted(vocabulary, key=vocabulary.__getitem__):
        if len(wanted) >= size:
            break
        if not token.startswith("[unused"):
            wanted[token] = None
    return sorted(wanted, key=vocabulary.__getitem__)


def build_student(
    source: Path, layers: list[int], texts: Iterable[str], vocabulary_size: int, max_length: int = 512
) -> "CrossEncoder":
    """A Sentence Transformers CrossEncoder made of `layers` of the BERT checkpoint at `source` and a fresh
    Ettin head (CLS → Dense → GELU → LayerNorm → Dense to one logit)."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
    from transformers import BertModel, PreTrainedTokenizerFast

    full = Tokenizer.from_file(str(source / "tokenizer.json"))
    full.no_truncation()
    full.no_padding()
    kept = pick_vocabulary(full, texts, vocabulary_size)
    old_ids = [full.token_to_id(token) for token in kept]
    spec = json.loads(full.to_str())
    spec["model"]["vocab"] = {token: i for i, token in enumerate(kept)}
    new_id = spec["model"]["vocab"]
    for added in spec["added_tokens"]:
        added["id"] = new_id[added["content"]]
    for name, special in spec["post_processor"].get("special_tokens", {}).items():
        special["ids"] = [new_id[name]]
    if spec["post_processor"]["type"] == "BertProcessing":
        for side in ("sep", "cls"):
            spec["post_processor"][side][1] = new_id[spec["post_processor"][side][0]]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL},
    )

    encoder = BertModel.from_pretrained(source, add_pooling_layer=False, dtype=torch.float32)
    encoder.encoder.layer = torch.nn.ModuleList([encoder.encoder.layer[i] for i in layers])
    words = encoder.get_input_embeddings().weight.detach()[old_ids]
    encoder.set_input_embeddings(torch.nn.Embedding.from_pretrained(words.clone(), freeze=False))
    encoder.config.num_hidden_layers = len(layers)
    encoder.config.vocab_size = len(kept)
    encoder.config.pad_token_id = tokenizer.pad_token_id

    hidden = encoder.config.hidden_size
    with tempfile.TemporaryDirectory() as folder:  # Transformer is only ever built from a folder
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=max_length)
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
