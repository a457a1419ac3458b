"""Runs the steps of k8s/Dockerfile without a container engine: every stage is a folder, every RUN a chroot into it.

    python -m tests.check.image --base FOLDER --out FOLDER --target cpu --build-arg TORCH_INDEX=URL --bind HERE:THERE

As root, on Linux. `--base`: a root file system in place of the image BASE, such as `debootstrap --variant=minbase
--include=ca-certificates bookworm FOLDER`, with `--build-arg PACKAGES="python3 python3-venv"`. `--bind`: what RUN sees
besides, such as a package index. `--keep`: a stage that is taken as OUT has it, without running its steps again. The
result is OUT/TARGET, and OUT/TARGET.json with its environment, user and working folder.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "k8s/Dockerfile"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Mounts that a container has while it is built; they end with the process, in a mount namespace of its own.
CHROOT = """\
mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t tmpfs tmpfs "$1/tmp"
for file in /etc/resolv.conf /etc/hosts; do touch "$1$file"; mount --bind $file "$1$file"; done
for pair in $3; do mkdir -p "$1/${pair#*:}"; mount --bind "${pair%%:*}" "$1/${pair#*:}"; done
exec chroot --userspec="$5:0" "$1" /bin/sh -c "cd '$2' && $4"
"""


@dataclass
class Stage:
    """A stage while it is built. `root`: its files. `arguments`: of ARG, which RUN sees and the image does not."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0"

    def inside(self, path: str) -> Path:
        """A path of the stage, absolute or in its working folder, as a path of this computer."""
        return self.root / os.path.join(self.folder, path).lstrip("/")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their words, continued lines joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = [line.strip() for line in lines.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined]


def substituted(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: values.get(found[1], ""), text)


def is_left_out(path: str, ignored: list[str]) -> bool:
    """Whether .dockerignore keeps a path of the build context out. The last pattern that fits decides."""
    out = False
    for pattern in ignored:
        wanted = pattern.removeprefix("!")
        parents = [path, *map(str, list(Path(path).parents)[:-1])]
        names = [wanted, wanted.removeprefix("**/")]
        if any(fnmatch.fnmatch(each, name) for each in parents for name in names):
            out = not pattern.startswith("!")
    return out


@dataclass(frozen=True)
class Told:
    """What the command line says, and the patterns of .dockerignore."""

    target: str
    base: Path
    out: Path
    build_args: dict[str, str]
    binds: list[str]
    keep: list[str]
    ignored: list[str]


def build(text: str, told: Told) -> Stage:
    """Build the stages of a Dockerfile up to the target, and return that. Raises CalledProcessError for a step that
    fails, and FileNotFoundError for a file that is not in the build context."""
    stages: dict[str, Stage] = {}
    known: dict[str, str] = {}
    stage: Stage | None = None
    for word, rest in instructions(text):
        if word == "FROM":
            if told.target in stages:
                break
            source, _, name = substituted(rest, known).split()
            stages[name] = stage = Stage(told.out / name)
            if source in stages:
                earlier = stages[source]
                stage.environment, stage.folder, stage.user = dict(earlier.environment), earlier.folder, earlier.user
            if name in told.keep:
                continue
            if stage.root.exists():
                shutil.rmtree(stage.root)
            subprocess.run(["cp", "-a", stages[source].root if source in stages else told.base, stage.root], check=True)
        elif word == "ARG":
            key, has_default, default = rest.partition("=")
            if key in told.build_args or has_default:
                (stage.arguments if stage else known)[key] = told.build_args.get(key, default)
        elif stage is None:
            raise ValueError(f"{word} stands before FROM")
        elif stage.root.name not in told.keep or word in ("ENV", "WORKDIR", "USER"):
            print(f"{stage.root.name}: {word} {rest[:110]}", flush=True)
            step(stage, word, rest, stages, told)
    return stages[told.target]


def step(stage: Stage, word: str, rest: str, stages: dict[str, Stage], told: Told) -> None:
    """One instruction inside a stage."""
    if word == "ENV":
        pairs = [pair.split("=", 1) for pair in shlex.split(rest)]
        stage.environment |= {key: substituted(value, stage.environment) for key, value in pairs}
    elif word == "WORKDIR":
        stage.folder = rest
        stage.inside(rest).mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        stage.user = rest
    elif word == "COPY":
        *sources, goal = [part for part in rest.split() if not part.startswith("--from=")]
        origin = re.search(r"--from=(\w+)", rest)
        for source in sources:
            copy(stage, source, goal, stages[origin[1]] if origin else None, told.ignored)
    elif word == "RUN":
        command = re.sub(r"--mount=\S+ ", "", rest)
        arguments = (CHROOT, "sh", stage.root, stage.folder, " ".join(told.binds), command, stage.user)
        subprocess.run(
            ["unshare", "--mount", "--fork", "sh", "-ec", *arguments],
            env={"HOME": "/root"} | stage.environment | stage.arguments,
            check=True,
        )
    else:
        raise ValueError(f"{word}: this instruction is not known here")


def copy(stage: Stage, source: str, goal: str, origin: Stage | None, ignored: list[str]) -> None:
    """What COPY does: a folder's contents go into the goal, a file goes to it or into it."""
    found = origin.inside(source) if origin else ROOT / source
    if origin is None and is_left_out(source, ignored):
        raise FileNotFoundError(f"COPY {source}: .dockerignore leaves it out of the build context")

    place = stage.inside(goal)
    if origin and found.is_dir():  # between stages nothing is left out
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{found}/.", place], check=True)
        return

    def left_out(folder: str, names: list[str]) -> set[str]:
        here = os.path.relpath(folder, ROOT)
        return {name for name in names if is_left_out(f"{here}/{name}", ignored)}

    if found.is_dir():
        shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=left_out)
    else:
        shutil.copy2(found, place / found.name if goal.endswith("/") else place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--keep", action="append", default=[])
    words = parser.parse_args()
    ignored = DOCKERFILE.with_suffix(".dockerignore").read_text().split()
    build_args = dict(each.split("=", 1) for each in words.build_arg)
    words.out.mkdir(parents=True, exist_ok=True)
    told = Told(words.target, words.base, words.out, build_args, words.bind, words.keep, ignored)
    stage = build(DOCKERFILE.read_text(), told)
    made = {"environment": stage.environment, "user": stage.user, "folder": stage.folder}
    (told.out / f"{told.target}.json").write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
