"""The encoder families that can be scored, by the `model_type` of a checkpoint's config.json."""

from typing import Any

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.models.bert import BERT
from rankfleet.engine.models.family import Family
from rankfleet.engine.models.modernbert import MODERNBERT
from rankfleet.engine.models.qwen2 import QWEN2
from rankfleet.engine.models.roberta import ROBERTA

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "modernbert": MODERNBERT,
    "qwen2": QWEN2,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}


def family_of(config: Any) -> Family:
    """The family of a checkpoint with this config. Raises CheckpointError for an architecture that is not supported."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise CheckpointError(f"it is a {config.model_type!r} model; supported are {', '.join(sorted(FAMILIES))}")
    return family
