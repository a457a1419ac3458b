"""From a checkpoint and texts to raw logits: tokenizer → packing → encoder → head. Only this package uses torch."""
