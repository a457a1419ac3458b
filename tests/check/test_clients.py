"""The packages that people call rerankers with, against one running fleet, each in an environment of its own.

What they call is in `tests/clients`. `python -m tests.clients.environments` makes the environments.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.check.conftest import LEAKING, ROOT
from tests.clients import contract, environments
from tests.serving import READY, serving

CLIENTS = [
    pytest.param(environment, name, id=f"{name}-{environment}")
    for environment, names in environments.TESTS.items()
    for name in names
]


def settings() -> dict[str, object]:
    """The demo fleet, whose budgets a test can give by each of their names, and which little can make refuse."""
    demo = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    for slo_ms, name in contract.CLASSES.items():
        key = hashlib.sha256(contract.KEYS[name].encode()).hexdigest()
        demo["slo_classes"][name] = {"slo_ms": slo_ms, "api_key_sha256": [key]}
    demo["slo_classes"][contract.MODEL] = {"slo_ms": contract.LONG_MS}
    limits = {"max_body_bytes": contract.MAX_BODY_BYTES, "max_bytes_in_flight": contract.MAX_BYTES_IN_FLIGHT}
    return demo | {"default_slo_class": contract.CLASSES[contract.LONG_MS], "limits": limits}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a fleet; there is none without clients."""
    if missing := [name for name in environments.PACKAGES if environments.python_of(name) is None]:
        pytest.skip(f"no clients of {', '.join(missing)}: run python -m tests.clients.environments")
    folder = tmp_path_factory.mktemp("clients")
    config, output = folder / "fleet.yaml", folder / "output.txt"
    config.write_text(yaml.safe_dump(settings(), sort_keys=False))
    with serving(config, output) as fleet:
        assert READY in fleet.wait_for(READY), output.read_text()
        yield f"http://127.0.0.1:{fleet.port}"
        assert fleet.stop() == 0, output.read_text()


@pytest.mark.parametrize(("environment", "name"), CLIENTS)
def test_a_client(url: str, environment: str, name: str, tmp_path: Path) -> None:
    python = environments.python_of(environment)
    variables = {name: value for name, value in os.environ.items() if name not in LEAKING}
    options = ("-q", "-c", os.devnull, "-p", "no:cacheprovider", "--rootdir", ROOT, "--basetemp", tmp_path / "tmp")
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, ROOT / f"tests/clients/test_{name}.py"],
        cwd=tmp_path,
        env=variables | environments.OFFLINE | {"RANKFLEET_URL": url},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
