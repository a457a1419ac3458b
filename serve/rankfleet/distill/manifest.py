"""What a run was started with, so that it is resumed with the same and with nothing else."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rankfleet.core.errors import InvalidRequest

FORMAT = 1  # of the files in a work folder


def digest_of(*files: Path) -> str:
    """16 hexadecimal digits of a SHA-256 over the contents of files."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def resume_or_begin(work: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether `work` holds a run with this manifest; begins one where it holds none.

    Raises InvalidRequest that says what differs if it holds another run.
    """
    path = work / "manifest.json"
    text = json.dumps({"format": FORMAT, **manifest}, indent=2, ensure_ascii=False) + "\n"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return False
    try:
        begun = {**json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError, RecursionError):  # it is damaged
        begun = {}
    changes = list(differences(begun, json.loads(text)))
    if changes:
        raise InvalidRequest(
            f"{work} holds a run that was begun with something else:\n"
            + "\n".join(f"  {change}" for change in changes)
            + f"\nTo go on with it, give the same again. To begin anew, remove {work} or give another --out"
        )
    return True


def differences(begun: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What differs between two manifests, one line for a key."""
    for key in keys_of(begun, now):
        old, new = begun.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{path}{key}.")
        elif old != new:
            yield f"{path}{key}: {shown(old)} then, {shown(new)} now"


def keys_of(*manifests: Mapping[str, Any]) -> Iterable[str]:
    return dict.fromkeys(key for manifest in manifests for key in manifest)


def shown(value: Any) -> str:
    return "none" if value is None else str(value)
