"""Models of the hub, fetched by the real client from a hub on this computer, and loaded by the engine.

The client reads its environment when it is imported, so each test that asks the hub does so in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import Checkpoint
from rankfleet.engine.checkpoint.hub import HubModel, check_space, in_tenths, refusal
from rankfleet.engine.runtime.scorer import Reranker
from tests.fake_hub import ETTIN, TEACHER, FakeHub, Repository, serving_hub, small_models

SMALL, OTHER = "cross-encoder/ettin-reranker-17m-v1", "cross-encoder/ettin-reranker-32m-v1"
COMMIT, OTHER_COMMIT = ETTIN["17m"][0], ETTIN["32m"][0]
FIND = """
import json, sys
from rankfleet.core.errors import CheckpointError
from rankfleet.engine.checkpoint.files import find_checkpoint

for model, revision in json.loads(sys.argv[1]):
    try:
        print(json.dumps(str(find_checkpoint(model, revision).folder)))
    except CheckpointError as error:
        print(json.dumps(f"error: {error}"))
"""
RANKFLEET = "from rankfleet.cli import main; main()"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Repository]:
    return small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(models: dict[str, Repository]) -> Iterator[FakeHub]:
    with serving_hub(dict(models)) as hub:
        yield hub


@pytest.fixture
def unreachable(hub: FakeHub) -> FakeHub:
    return FakeHub("http://127.0.0.1:9", hub.repositories)


def run(hub: FakeHub, home: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """A Python command that asks this hub. `home`: with the cache. `more`: environment."""
    kept = {name: value for name, value in os.environ.items() if not re.match("HF_|.*_proxy$", name, re.IGNORECASE)}
    given = kept | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "COLUMNS": "100"} | more
    command = [sys.executable, "-c", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=120)


def find(hub: FakeHub, home: Path, *wanted: tuple[str, str | None], **more: str) -> list[str]:
    """The folder or the error of `find_checkpoint` for each model and revision."""
    done = run(hub, home, FIND, json.dumps(wanted), **more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def whole(folder: str, repository: Repository) -> bool:
    """Whether a fetched folder holds the repository's files, but for those that are not read."""
    wanted = {name: path.read_bytes() for name, path in repository.files.items() if not name.endswith(".md")}
    return wanted == {name: path.read_bytes() for name, path in Repository(Path(folder), "").files.items()}


def test_models_of_the_hub_rank_as_their_folders_do(hub: FakeHub, tmp_path: Path) -> None:
    for fetched, name in zip(find(hub, tmp_path, (SMALL, COMMIT), (TEACHER, None)), (SMALL, TEACHER), strict=True):
        assert whole(fetched, hub.repositories[name])
        documents = ["The wing heats up.", "Patients were given the drug twice."]
        ours, source = (
            Reranker.load(Checkpoint(folder), "float32", "cpu").score("wing", documents).tolist()
            for folder in (Path(fetched), hub.repositories[name].folder)
        )
        assert ours == source


def test_a_broken_download_is_taken_up_where_it_broke(hub: FakeHub, tmp_path: Path) -> None:
    weights = hub.repositories[SMALL].folder / "model.safetensors"
    hub.breaks[weights] = 15_000_000  # of 26.6 million
    (folder,) = find(hub, tmp_path, (SMALL, COMMIT))
    assert whole(folder, hub.repositories[SMALL])
    asked = [
        asked
        for asked in hub.asked
        if asked.path.startswith("/cdn/") and asked.path.endswith(f"{COMMIT}/model.safetensors")
    ]
    assert [asked.from_byte for asked in asked] == [0, 10_485_760]  # the client writes 10 MiB at a time


def test_after_a_failed_download_no_whole_file_is_asked_for_again(hub: FakeHub, tmp_path: Path) -> None:
    weights = hub.repositories[SMALL].folder / "model.safetensors"
    hub.unavailable.add(weights)
    (error,) = find(hub, tmp_path, (SMALL, COMMIT))
    assert error.startswith(f"error: cannot get {SMALL} at {COMMIT} from the hub at {hub.endpoint} (status 503)")
    first = hub.downloads()
    hub.unavailable.clear()
    hub.asked.clear()
    (folder,) = find(hub, tmp_path, (SMALL, COMMIT))
    assert whole(folder, hub.repositories[SMALL])
    assert set(first) & set(hub.downloads()) == {f"/cdn/{SMALL}/resolve/{COMMIT}/model.safetensors"}
    assert len(hub.downloads()) < len(hub.repositories[SMALL].files) - 1


def test_a_token_is_passed_on_and_not_to_where_large_files_are_stored(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[SMALL] = replace(hub.repositories[SMALL], token="hf_mine")
    (folder,) = find(hub, tmp_path, (SMALL, COMMIT), HF_TOKEN="hf_mine")
    assert whole(folder, hub.repositories[SMALL])
    sent = {asked.path.startswith("/cdn/"): asked.token for asked in hub.asked}
    assert sent == {False: "hf_mine", True: None}


def test_what_was_fetched_is_found_without_the_hub(hub: FakeHub, unreachable: FakeHub, tmp_path: Path) -> None:
    wanted = (SMALL, COMMIT), (OTHER, None)
    fetched = find(hub, tmp_path, *wanted)
    assert find(hub, tmp_path, *wanted, HF_HUB_OFFLINE="1") == fetched
    assert find(unreachable, tmp_path, *wanted) == fetched
    hub.asked.clear()
    assert find(hub, tmp_path, (SMALL, COMMIT)) == fetched[:1]
    assert hub.asked == []  # a commit's files do not change
    # A part of the files is not taken for the whole.
    (Path(fetched[0]) / "2_Dense" / "model.safetensors").unlink()
    (error,) = find(hub, tmp_path, (SMALL, COMMIT), HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set), and the cache" in error


def test_what_cannot_be_had_is_refused_with_what_to_do(hub: FakeHub, unreachable: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/gated"] = replace(hub.repositories[SMALL], token="hf_theirs")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (pickled / name).write_text("{}")
    hub.repositories["org/pickled"] = Repository(pickled, COMMIT)
    wanted = ("org/gated", None), ("org/none", None), (SMALL, "v2"), (SMALL, "0" * 40), ("org/pickled", COMMIT)
    gated, none, branch, commit, without = find(hub, tmp_path, *wanted)
    page = f"{hub.endpoint}/org/gated"
    assert gated == (
        f"error: org/gated is gated: accept its terms at {page}, and set HF_TOKEN to a token of yours (or run "
        "`hf auth login`)"
    )
    assert none == (
        f"error: the hub at {hub.endpoint} has no model org/none, or does not show it: check the name; a private one "
        "needs HF_TOKEN"
    )
    commits = f"its commits are listed at {hub.endpoint}/{SMALL}/commits/main"
    assert branch == f"error: {SMALL} has no revision v2; {commits}"
    assert commit == f"error: {SMALL} has no revision {'0' * 40}; {commits}"
    assert without.startswith("error: org/pickled has no safetensors file on the hub, and other weights are not loaded")
    (gated, none) = find(hub, tmp_path, ("org/gated", None), ("org/none", None), HF_TOKEN="hf_mine")
    assert f"accept its terms at {page}, and ask for access with the account of your token" in gated
    assert none.endswith("a private one needs HF_TOKEN, set to a token that may read it")
    assert not [path for path in hub.downloads() if "safetensors" in path]
    done = run(unreachable, tmp_path, RANKFLEET, "models", "pull", "--config", "laptop")
    assert [line[:30] for line in done.stderr.splitlines() if "ConnectError" in line] == [
        "error: tier 17m: cannot get cr",
        "tier 32m: cannot get cross-enc",
        "tier 68m: cannot get cross-enc",
    ]
    assert done.stderr.count("rankfleet serve --config demo") == 1

    (error,) = find(unreachable, tmp_path, (SMALL, COMMIT))
    assert error.splitlines()[0] == (
        f"error: cannot get {SMALL} at {COMMIT} from the hub at http://127.0.0.1:9 (ConnectError), and the cache "
        f"{tmp_path}/hub does not have all of it."
    )
    assert f"hf download {SMALL} --revision {COMMIT} --local-dir DIR" in error
    assert "rankfleet serve --config demo" in error
    (error,) = find(hub, Path("/dev/null/x"), (SMALL, COMMIT))
    assert error.endswith("Not a directory; set HF_HOME to a folder that can be written and has room")


def test_a_fleet_is_refused_before_anything_is_downloaded_or_started(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    tiers = f"a: {{model: {SMALL}, quality: 0.5}}, b: {{model: org/none, quality: 0.5}}"
    file.write_text(
        f"tiers: {{{tiers}, c: {{model: ./none, quality: 0.5}}}}\ngroups: {{g: {{tiers: [a, b, c], cpus: 0.1}}}}\n"
    )
    done = run(hub, tmp_path, RANKFLEET, "serve", "--config", str(file), "--port", "18734")
    assert done.returncode == 1
    assert f"error: tier b: the hub at {hub.endpoint} has no model org/none" in done.stderr
    assert f"tier c: there is no model folder at {tmp_path}/none" in done.stderr
    assert "starting Ray" not in done.stderr
    assert hub.downloads() == []


def test_a_fleet_too_large_for_memory_is_refused_before_anything_is_started(hub: FakeHub, tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    group = "{tiers: [a], cpus: 0, replicas: {min: 100000, max: 100000}}"
    file.write_text(f"tiers: {{a: {{model: {SMALL}, quality: 0.5}}}}\ngroups: {{g: {group}}}\n")
    done = run(hub, tmp_path, RANKFLEET, "serve", "--config", str(file), "--port", "18734")
    assert done.returncode == 1
    assert "error: the fleet does not fit into memory: this computer or its container has" in done.stderr
    assert re.search(r"\n  group g: 100000 × 0\.\d\d GB: weights at 2 bytes \(a 0\.01\) \+ ", done.stderr)
    assert "starting Ray" not in done.stderr


def test_pull_downloads_the_models_of_a_fleet_once(hub: FakeHub, tmp_path: Path) -> None:
    done = run(
        hub, tmp_path, RANKFLEET, "models", "pull", "--config", "gpu", TEACHER, "--json", str(tmp_path / "got.json")
    )
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("on this computer: ")
    rows = {line.split()[1]: line.split() for line in before.splitlines()[1:] if "ettin" in line}
    assert rows[SMALL] == ["17m", SMALL, "9e4aa353", "26.7", "MB", "no"]
    assert len(rows) == 6
    assert after.startswith(f"{TEACHER}, 17m, 32m, 68m, 150m, 400m, 1b; downloaded 96.")
    assert re.search(r"^ +\d\.\d s  downloading 17m: 100% of 26.7 MB$", done.stderr, re.MULTILINE)
    got = json.loads((tmp_path / "got.json").read_text())["models"]
    assert whole(got["17m"]["folder"], hub.repositories[SMALL])
    assert [got[TEACHER][key] for key in ("commit", "revision")] == [hub.repositories[TEACHER].commit, None]
    size = sum(path.stat().st_size for name, path in hub.repositories[SMALL].files.items() if not name.endswith(".md"))
    assert [got["17m"][key] for key in ("bytes", "downloaded_bytes")] == [size, size]

    hub.asked.clear()
    again = run(hub, tmp_path, RANKFLEET, "models", "pull", f"{SMALL}@{COMMIT}")
    assert again.stdout.splitlines()[1].split() == [SMALL, "9e4aa353", "26.7", "MB", "yes"]
    assert again.stdout.splitlines()[2] == f"on this computer: {SMALL}@{COMMIT}"
    assert hub.asked == []
    checked = run(hub, tmp_path, RANKFLEET, "config", "check", "gpu")
    assert (checked.returncode, checked.stderr) == (0, "")  # no model is "not downloaded yet"
    assert "gpu is valid: 6 tiers" in checked.stdout
    ranked = run(hub, tmp_path, RANKFLEET, "rank", "-c", "laptop", "--tier", "17m", "wing", "A wing.", "The drug.")
    assert ranked.returncode == 0, ranked.stderr


def test_pull_refuses_all_if_one_cannot_be_had(hub: FakeHub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, RANKFLEET, "models", "pull", f"{SMALL}@{COMMIT}", "org/none", "org/neither")
    assert done.returncode == 1
    assert re.search("error: the hub at .* has no model org/none, .*\nthe hub at .* org/neither", done.stderr)
    assert hub.downloads() == []


def test_a_disk_without_room_is_refused_with_both_figures() -> None:
    huge = HubModel(SMALL, COMMIT, COMMIT, 8 * 10**18, 7 * 10**18)
    with pytest.raises(
        CheckpointError, match=r"^the models take 7\.0 EB, and .* has .* free; make room, or set HF_HOME"
    ):
        check_space([huge])
    check_space([replace(huge, missing_bytes=0)])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(13, "Permission denied", "/x/hub"),
            "org/a cannot be stored at /x/hub: Permission denied; set",
        ),
        (OSError(28, "No space left on device"), "org/a cannot be stored at .*: No space left on device; set HF_HOME"),
        (OSError("Consistency check failed"), r"cannot get org/a from the hub at .* \(OSError\), and the cache"),
    ],
)
def test_a_cache_that_cannot_be_written_is_named(error: OSError, message: str) -> None:
    assert re.match(message, str(refusal(error, "org/a", None)))


def test_progress_is_said_in_tenths() -> None:
    said: list[str] = []
    say = in_tenths("a", 2_000_000, said.append)
    for done in (0, 199_999, 200_000, 1_999_999, 2_000_000, 2_100_000):
        say(done)
    assert said == [f"a: {share}% of 2.0 MB" for share in (0, 0, 10, 90, 100, 100)]
