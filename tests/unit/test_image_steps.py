"""Reading k8s/Dockerfile as a container engine does, so that its steps can run without one."""

from pathlib import Path

import pytest

from tests.check.image import DOCKERFILE, Stage, Told, copy, instructions, is_left_out, step, substituted

IGNORED = DOCKERFILE.with_suffix(".dockerignore").read_text().split()


def test_continued_lines_are_joined_and_comments_left_out() -> None:
    text = "# a comment\nRUN one \\\n    # in between\n    && two\n\nUSER 7\n"
    assert [(word, rest.split()) for word, rest in instructions(text)] == [
        ("RUN", ["one", "&&", "two"]),
        ("USER", ["7"]),
    ]


def test_values_of_variables_are_put_in() -> None:
    assert substituted("a:${A}/${NONE}.", {"A": "1"}) == "a:1/."


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("serve/rankfleet/cli/k8s.py", False),
        ("serve/rankfleet/engine/native/kernels.so", True),
        ("serve/rankfleet/__pycache__", True),
        ("tests", True),
        ("README.md", False),
    ],
)
def test_the_last_pattern_that_fits_decides_what_is_left_out(path: str, out: bool) -> None:
    assert is_left_out(path, IGNORED) is out


def test_every_file_that_the_image_copies_is_in_the_build_context() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions(DOCKERFILE.read_text()) if word == "COPY"]
    sources = [source for sources in copied if not sources[0].startswith("--from") for source in sources]
    assert "constraints.txt" in sources
    assert [source for source in sources if is_left_out(source, IGNORED)] == []


def test_a_file_outside_the_build_context_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"COPY Makefile: \.dockerignore leaves it out"):
        copy(Stage(tmp_path), "Makefile", "./", None, IGNORED)


def test_instructions_change_the_stage(tmp_path: Path) -> None:
    told, stage = Told("a", tmp_path, tmp_path, {}, [], [], IGNORED), Stage(tmp_path)
    steps = [
        ("ENV", "PATH=/opt/bin:${PATH} HOME=/h"),
        ("WORKDIR", "/src"),
        ("COPY", "README.md LICENSE ./"),
        ("USER", "5"),
    ]
    for word, rest in steps:
        step(stage, word, rest, {}, told)
    assert stage.environment["PATH"].startswith("/opt/bin:/usr/local/sbin:")
    assert (stage.environment["HOME"], stage.folder, stage.user) == ("/h", "/src", "5")
    assert sorted(path.name for path in (tmp_path / "src").iterdir()) == ["LICENSE", "README.md"]
    with pytest.raises(ValueError, match="VOLUME: this instruction is not known"):
        step(stage, "VOLUME", "/x", {}, told)
