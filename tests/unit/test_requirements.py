"""The lock files agree with constraints.txt and pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = ("torch", "serve", "search", "dev", "bench")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def pins(text: str) -> dict[str, str]:
    """Version by name of package."""
    found = {}
    for line in text.splitlines():
        if "==" in line:
            requirement = Requirement(line.strip(" \\"))
            (specifier,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text())
LOCKED = {file: pins((ROOT / f"requirements/{file}.txt").read_text()) for file in FILES}


def test_each_package_of_the_constraints_is_locked_once_at_its_version() -> None:
    locked = [pin for file in FILES for pin in LOCKED[file].items() if file != "torch" or pin[0] == "torch"]
    assert sorted(locked) == sorted(CONSTRAINTS.items()), "run: make lock"


@pytest.mark.parametrize("file", FILES)
def test_each_package_has_hashes_and_nothing_says_where_it_was_found(file: str) -> None:
    _, *blocks = re.split(r"^(?=\S+==)", (ROOT / f"requirements/{file}.txt").read_text(), flags=re.MULTILINE)
    assert len(blocks) == len(LOCKED[file])
    for block in blocks:
        _, *hashes = block.splitlines()
        assert hashes, block
        assert [line for line in hashes if not HASH.fullmatch(line)] == []


@pytest.mark.parametrize(
    ("files", "extras"),
    [
        (("torch", "serve"), ()),
        (("torch", "serve", "search"), ("search",)),
        (("torch", "serve", "search", "dev"), ("dev", "eval", "train")),
        (FILES, ("bench",)),
    ],
    ids=["serve", "search", "dev", "bench"],
)
def test_what_the_project_asks_for_is_in_the_file_of_its_use(files: tuple[str, ...], extras: tuple[str, ...]) -> None:
    locked = {name: version for file in files for name, version in LOCKED[file].items()}
    lists = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"]]
    lists += [PROJECT["project"]["optional-dependencies"][extra] for extra in extras]
    wanted = [Requirement(line) for listed in lists for line in listed if not line.startswith("rankfleet[")]
    unmet = [w for w in wanted if not w.specifier.contains(locked.get(canonicalize_name(w.name), "0"))]
    assert unmet == [], "pin it in constraints.txt, and run: make lock"
