"""The packages that people call rerankers with, against one running fleet, each in an environment of its own.

What they call is in `tests/clients`. `python -m tests.clients.environments` makes the environments.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from rankfleet.api.keys import line_of
from tests.check.conftest import LEAKING, ROOT
from tests.clients import contract, environments
from tests.serving import READY, serving

CLIENTS = [
    pytest.param(environment, name, id=f"{name}-{environment}")
    for environment, names in environments.TESTS.items()
    for name in names
]


BY_KEY = "test_an_api_key_selects_a_budget"  # which needs a fleet with keys; nothing else does


def settings() -> dict[str, object]:
    """The demo fleet, whose budgets a test can give by each of their names, and which little can make refuse."""
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    for slo_ms, name in contract.CLASSES.items():
        demo["slo_classes"][name] = {"slo_ms": slo_ms}
    demo["slo_classes"][contract.MODEL] = {"slo_ms": contract.LONG_MS}
    limits = {"max_body_bytes": contract.MAX_BODY_BYTES, "max_bytes_in_flight": contract.MAX_BYTES_IN_FLIGHT}
    return demo | {"default_slo_class": contract.CLASSES[contract.LONG_MS], "limits": limits}


def with_keys(file: Path) -> dict[str, object]:
    """The same for those who have a key in this file, each of which selects a budget."""
    file.write_text("".join(line_of(key, name) + "\n" for name, key in contract.KEYS.items()))
    return settings() | {"keys": str(file), "tenants": {name: {"slo_classes": [name]} for name in contract.KEYS}}


def served(fleet: dict[str, object], folder: Path) -> Iterator[str]:
    """The address of this fleet; there is none without clients."""
    if missing := [name for name in environments.PACKAGES if environments.python_of(name) is None]:
        pytest.skip(f"no clients of {', '.join(missing)}: run python -m tests.clients.environments")
    config, output = folder / "fleet.yaml", folder / "output.txt"
    config.write_text(yaml.safe_dump(fleet, sort_keys=False))
    with serving(config, output) as running:
        assert READY in running.wait_for(READY), output.read_text()
        yield f"http://127.0.0.1:{running.port}"
        assert running.stop() == 0, output.read_text()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from served(settings(), tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def url_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("keys")
    yield from served(with_keys(folder / "keys.txt"), folder)


@pytest.mark.parametrize(("environment", "name"), CLIENTS)
def test_a_client(url: str, environment: str, name: str, tmp_path: Path) -> None:
    run(environment, (name,), f"not {BY_KEY}", url, tmp_path)


@pytest.mark.parametrize("environment", environments.TESTS)
def test_the_key_of_a_client_selects_its_budget(url_with_keys: str, environment: str, tmp_path: Path) -> None:
    run(environment, environments.TESTS[environment], BY_KEY, url_with_keys, tmp_path)


def run(environment: str, names: Sequence[str], which: str, url: str, folder: Path) -> None:
    """The tests of these clients that `which` selects."""
    python = environments.python_of(environment)
    variables = {name: value for name, value in os.environ.items() if name not in LEAKING}
    options = ("-q", "-c", os.devnull, "-p", "no:cacheprovider", "--rootdir", ROOT, "--basetemp", folder / "tmp")
    files = [ROOT / f"tests/clients/test_{name}.py" for name in names]
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, "-k", which, *files],
        cwd=folder,
        env=variables | environments.OFFLINE | {"RANKFLEET_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
