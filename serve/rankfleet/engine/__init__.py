"""From checkpoint to scores: tokenizer → packing → attention → encoder → head. The only place for torch."""
