"""What a tier's `model` may be: a model that ships with the package, a folder, or an id on the hub. Quality tables that
ship with models are named like them."""

from pathlib import Path

SHIPPED_MODELS = Path(__file__).parent.parent / "models"


def may_be_hub_id(model: str) -> bool:
    """Whether a tier's `model` has the form of a hub id, ORGANISATION/NAME, and not of a path."""
    return model.count("/") == 1 and not model.startswith((".", "/", "~"))
