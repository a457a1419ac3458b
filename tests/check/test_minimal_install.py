"""Rankfleet without extras, installed from a wheel of its source distribution: it ranks and serves, and names the extra
that a verb needs."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest
import yaml

from rankfleet.api.console.routes import WEB
from rankfleet.engine.native.build import VARIANTS
from rankfleet.engine.native.library import best_variants, cpu_flags
from tests.check.conftest import Environment, build_wheel, copy_of_the_checkout
from tests.serving import READY, serving

QUERY = "How do vaccines protect against disease?"
DOCUMENTS = [
    "The stock market closed higher on Friday after strong earnings.",
    "A vaccine trains the immune system to recognise a germ, so that it can fight the disease later.",
    "Heavy rain is expected in the north of the country this weekend.",
]
CONSOLE = [str(path.relative_to(WEB)) for path in WEB.rglob("*") if path.is_file()]
METADATA = ("PKG-INFO", "SOURCES.txt", "dependency_links.txt", "entry_points.txt", "requires.txt", "top_level.txt")
HEADERS = ("attention.hpp", "matmul.hpp", "vector.hpp")
OF_EXTRAS = ("bm25s", "datasets", "flash_attn", "ir_measures", "matplotlib", "onnxruntime", "sentence_transformers")


def test_the_source_distribution_holds_the_package_and_what_builds_it_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    outside = {name for name in names if not name.startswith("serve/rankfleet/")}
    metadata = {f"serve/rankfleet.egg-info/{name}" for name in METADATA}
    assert outside == {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py"} | metadata
    sources = {f"serve/rankfleet/engine/native/{name}" for name in ("encoder.cpp", *HEADERS)}
    assert sources | {"serve/rankfleet/configs/demo.yaml"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "rankfleet/py.typed",
        "rankfleet/cli/__init__.py",
        "rankfleet/configs/demo.yaml",
        "rankfleet/configs/profiles/h100-published.json",
        "rankfleet/configs/published/ettin.json",
        "rankfleet/configs/workloads/mixed.yaml",
        "rankfleet/engine/native/encoder.cpp",
        *(f"rankfleet/api/console/web/{name}" for name in CONSOLE),
        *(f"rankfleet/models/demo/{tier}/model.safetensors" for tier in ("small", "medium", "large")),
        *(f"rankfleet/models/demo/{tier}/tokenizer.json" for tier in ("small", "medium", "large")),
    } <= names
    top = {name.split("/")[0] for name in names}
    assert {folder for folder in top if not folder.endswith(".dist-info")} == {"rankfleet"}
    assert not [name for name in names if "contest" in name or "benchmarks" in name or "tests" in name]


def test_the_environment_has_the_wheel_and_no_extra(minimal: Environment) -> None:
    where = minimal.python("import rankfleet; print(rankfleet.__file__)").strip()
    assert Path(where).is_relative_to(minimal.path)
    code = f"import importlib.util as u; print([name for name in {OF_EXTRAS} if u.find_spec(name)])"
    assert minimal.python(code).strip() == "[]"


def test_rank_puts_the_right_document_first(minimal: Environment) -> None:
    done = minimal.run(minimal.rankfleet, "rank", QUERY, *DOCUMENTS)
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stdout.splitlines() if line.lstrip().startswith("1 "))
    assert "A vaccine trains" in first


def test_kernels_come_with_the_wheel(wheel: Path, minimal: Environment) -> None:
    if shutil.which("g++") is None or not best_variants(cpu_flags()):
        pytest.skip("needs a CPU with AVX-512 and a C++ compiler")
    with zipfile.ZipFile(wheel) as archive:
        built = {name for name in archive.namelist() if name.endswith(".so")}
    assert built == {f"rankfleet/engine/native/{variant.name}.so" for variant in VARIANTS}
    assert wheel.name.endswith("-cp311-abi3-linux_x86_64.whl"), "the kernels do not depend on Python"
    code = "from rankfleet.engine.native.library import library; print(*library().dtypes)"
    assert minimal.python(code).split() == list(best_variants(cpu_flags()))


def test_without_a_compiler_the_package_is_built_and_the_first_use_says_what_it_lacks(tmp_path: Path) -> None:
    folder = copy_of_the_checkout(tmp_path)
    built = build_wheel(folder, tmp_path, environment=os.environ | {"CXX": "/nothing/g++"})
    with zipfile.ZipFile(built) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(tmp_path / "installed")
    code = "from rankfleet.engine.native.library import kernel_files; print(kernel_files())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "{}", done.stderr
    if best_variants(cpu_flags()):
        (line,) = done.stderr.splitlines()
        assert "install g++ and then Rankfleet again" in line


def test_serve_answers_and_ctrl_c_leaves_no_process(minimal: Environment) -> None:
    output = minimal.folder / "serve.txt"
    command = (minimal.rankfleet,)
    with serving("demo", output, command, minimal.variables, cwd=minimal.folder) as fleet:
        assert READY in fleet.wait_for(READY), output.read_text()
        reply = httpx.post(
            f"http://127.0.0.1:{fleet.port}/v1/rerank",
            json={"query": QUERY, "documents": DOCUMENTS},
            timeout=30,
            trust_env=False,
        )
        assert reply.status_code == 200, reply.text
        assert reply.json()["results"][0]["index"] == 1
        assert fleet.stop() == 0, output.read_text()
    assert fleet.started, "no process was seen to be left"


@pytest.mark.parametrize("name", ["demo", "laptop", "gpu", "fleet"])
def test_config_check_finds_the_shipped_fleets(minimal: Environment, name: str) -> None:
    done = minimal.run(minimal.rankfleet, "config", "check", name)
    assert done.returncode == 0, done.stderr
    assert f"{name} is valid" in done.stdout


def test_k8s_render_writes_a_ray_service(minimal: Environment) -> None:
    done = minimal.run(minimal.rankfleet, "k8s", "render", "--config", "fleet")
    assert done.returncode == 0, done.stderr
    assert "RayService" in {rendered["kind"] for rendered in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("evaluate", "--data", "beir", "--tiers", "small"), "eval"),
        (("distill", "--student", "demo/small", "--data", "beir/corpus.jsonl", "--out", "student"), "train"),
        (("index", "build", "beir", "--out", "index"), "search"),
        (("simulate", "--arrivals", "poisson:rate=20", "--seconds", "5", "--plot", "run.png"), "eval"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_verb_that_needs_an_extra_names_it(minimal: Environment, arguments: tuple[str, ...], extra: str) -> None:
    write_collection(minimal.folder / "beir")
    done = minimal.run(minimal.rankfleet, *arguments)
    assert done.returncode == 1, done.stdout
    assert f"pip install 'rankfleet[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def write_collection(folder: Path) -> None:
    """A BEIR folder with two documents and one judged query."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(DOCUMENTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
