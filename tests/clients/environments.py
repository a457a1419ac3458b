"""The clients' environments, made with venv and pip: two, since their packages ask for different versions of `cohere`.

`python -m tests.clients.environments` makes them where they are missing or were made with other versions.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path.home() / ".cache/rankfleet/clients"
CONSTRAINTS = Path(__file__).with_name("constraints.txt")
PACKAGES = {
    "cohere-7": (
        *("cohere==7.3.1", "cohere-haystack", "huggingface-api-haystack", "vllm-haystack", "litellm", "voyageai"),
        *("baseten-performance-client", "requests", "openapi-python-client", "pytest"),
    ),
    "cohere-5": (
        *("cohere==5.21.1", "langchain-cohere", "langchain-nvidia-ai-endpoints", "pytest"),
        *(f"llama-index-postprocessor-{name}-rerank" for name in ("cohere", "jinaai", "tei")),
    ),
}

# Which `test_NAME.py` run in which environment.
TESTS = {
    "cohere-7": ("cohere", "haystack", "litellm", "voyageai", "baseten", "requests", "recorded", "readme", "openapi"),
    "cohere-5": ("cohere", "langchain_cohere", "langchain_nvidia", "llama_index", "readme"),
}
# What keeps clients from asking their makers for price lists and from reporting their use.
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HAYSTACK_TELEMETRY_ENABLED": "False", "HF_HUB_OFFLINE": "1"}


def wanted(name: str) -> str:
    """What an environment is made of."""
    return "\n".join([sys.version, *PACKAGES[name], CONSTRAINTS.read_text()])


def python_of(name: str) -> Path | None:
    """The environment's Python; None where it has to be made."""
    complete = FOLDER / name / "complete"
    return FOLDER / name / "bin/python" if complete.exists() and complete.read_text() == wanted(name) else None


def set_up() -> None:
    """Make the environments that have to be made. Raises CalledProcessError where pip fails."""
    for name, packages in PACKAGES.items():
        if python_of(name) is not None:
            continue
        environment = FOLDER / name
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        options = ("--quiet", "--disable-pip-version-check", "--progress-bar", "off", "--constraint", str(CONSTRAINTS))
        subprocess.run([str(environment / "bin/pip"), "install", *options, *packages], check=True)
        (environment / "complete").write_text(wanted(name))


if __name__ == "__main__":
    set_up()
