"""Marked figures in Markdown pages, and the numbers that have no marks."""

import re
import tomllib
from collections.abc import Iterator

from benchmarks.figures import (
    engine,
    experiments,
    kubernetes,
    quality,
    recommend,
    rollback,
    servers,
    serving,
    simulated,
)
from benchmarks.paths import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
ALLOWED = ROOT / "benchmarks/figures/allowed.toml"
REASONS = ("setting", "published", "definition", "goal", "example")  # why a number is not a measurement
TOPICS = (engine, experiments, kubernetes, quality, recommend, rollback, servers, serving, simulated)
FIGURES = {name: figure for topic in TOPICS for name, figure in topic.FIGURES.items()}

MARKED = re.compile(r"<!-- figure ([\w-]+) -->(\n?).*?<!-- end -->", re.DOTALL)
# Not prose: fenced code, marked figures, code spans, link targets and comments.
SKIPPED = re.compile(rf"```.*?```|{MARKED.pattern}|`[^`\n]+`|\]\([^)\n]*\)|<!--.*?-->", re.DOTALL)
UNITS = (
    r"µs|ms|s|seconds?|min|minutes?|h|hours?|GPU-hours|%|percent|×|times|points?|[KMG]i?B|nDCG(?:@10)?|"
    r"(?:pairs|requests|tokens|batches)(?:/s| a second| per second)"
)
NUMBER = r"[−+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
SEPARATOR = r"(?:/|–| to | and | or )"
# One number or several with a unit, and decimals that look like a quality: 0.4934 or .04.
MEASUREMENT = re.compile(
    rf"(?<![\w.,/])(?:{NUMBER}(?:{SEPARATOR}{NUMBER})* ?(?:{UNITS})(?![\w/])|"
    r"[−+-]?0?\.\d{3,}(?!\w)|[−+-]?\.\d+(?!\w))"
)


def filled(text: str) -> str:
    """The page with every marked figure made anew. Raises KeyError for a name that no figure has."""

    def fill(found: re.Match[str]) -> str:
        name, line_break = found[1], found[2]
        return f"<!-- figure {name} -->{line_break}{FIGURES[name]()}{line_break}<!-- end -->"

    return MARKED.sub(fill, text)


def names(text: str) -> list[str]:
    """The figures that a page marks."""
    return [found[1] for found in MARKED.finditer(text)]


def marks_at_line_start(text: str) -> list[str]:
    """Figures within a sentence whose mark begins a line. GitHub would not format such a line."""
    return [m[1] for m in MARKED.finditer(text) if not m[2] and (m.start() == 0 or text[m.start() - 1] == "\n")]


def unmarked(text: str) -> Iterator[str]:
    """Every number with a unit that is neither a marked figure, nor code, nor in a table of settings."""
    for line in SKIPPED.sub(" ␣ ", without_settings(text)).split("\n"):
        yield from (found[0] for found in MEASUREMENT.finditer(line))


def without_settings(text: str) -> str:
    """The page without tables that have a column `default`, which describe settings."""
    kept, inside = [], False
    for line in text.split("\n"):
        if not line.startswith("|"):
            inside = False
        elif "default" in [cell.strip() for cell in line.split("|")]:
            inside = True
        if not inside:
            kept.append(line)
    return "\n".join(kept)


def allowed() -> dict[str, dict[str, str]]:
    """By page: numbers that are not measured, each with the reason."""
    return tomllib.loads(ALLOWED.read_text(encoding="utf-8"))
