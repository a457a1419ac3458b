"""What is written beside a student's weights: its model card, and a fleet file with it as the only tier."""

import re
from pathlib import Path
from typing import Any

FLEET_FILE, PICTURE = "fleet.yaml", "training.png"
FLEET = """\
# One tier, made by `rankfleet distill`. Serve it:  rankfleet serve --config {file}
tiers:
  {tier}:
    model: .
    quality: 0.0  # not measured yet; do it with  rankfleet evaluate --config {file} --data BEIR_FOLDER
groups:
  {tier}: {{tiers: [{tier}], threads: 2}}
"""


def tier_name(folder: Path) -> str:
    """The folder's name as a tier may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:63] or "student"


def fleet_file(folder: Path) -> str:
    """A fleet file for the student in this folder."""
    return FLEET.format(tier=tier_name(folder), file=folder / FLEET_FILE)


def model_card(figures: dict[str, Any], folder: Path) -> str:
    """README.md of a student, from the figures of its run."""
    student, data, held_back = figures["student"], figures["data"], figures["held_back"]
    facts = {
        "student": f"{student['name']}, {student['parameters'] / 1e6:.1f}M parameters",
        "teacher": figures["teacher"] or "none: the scores were in the data",
        **{key.replace("_", " "): f"{value:,}" if isinstance(value, int) else value for key, value in data.items()},
    }
    exported = " after `rankfleet models export`, which undoes the int8 storage" if figures["settings"]["int8"] else ""
    return f"""\
---
library_name: sentence-transformers
pipeline_tag: text-ranking
tags: [cross-encoder, reranker, distillation, rankfleet]
---
# {tier_name(folder)}

A reranker that learned the raw scores of a teacher, made by `rankfleet distill`. A higher score means more relevant.

{table(facts)}

## Training

Mean squared error on the teacher's raw logits. {steps_of(figures)}

![Loss, and nDCG@10 on held-back queries, over the steps]({PICTURE})

{ranking_of(held_back)}

{table({name: value for name, value in figures["settings"].items() if value is not None})}

## Use

Serve it: `rankfleet serve --config {FLEET_FILE}`, in this folder. In a fleet of your own, name the folder as `model:`.
Sentence Transformers loads it as a `CrossEncoder`{exported}.
"""


def table(rows: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def steps_of(figures: dict[str, Any]) -> str:
    early = (
        " Training stopped early, because held-back queries were ranked no better." if figures["stopped_early"] else ""
    )
    return f"{figures['steps']:,} steps of {figures['settings']['batch']:,} pairs.{early}"


def ranking_of(held_back: dict[str, Any] | None) -> str:
    if held_back is None:
        return "No queries were held back, so this is the last checkpoint, and nothing says how well it ranks."
    worse = " Training has made it worse: do not serve this." if held_back["best"] < held_back["start"] else ""
    return (
        f"{held_back['queries']} queries were kept out of training. On these, nDCG@10 was {held_back['start']:.4f} "
        f"before training and is {held_back['best']:.4f} in the checkpoint that was kept, of step "
        f"{held_back['best_step']:,}.{worse} It says how well the student reproduces the teacher's ranking (1 is "
        "perfectly), and not how good that ranking is: measure that on judged queries, with `rankfleet evaluate`."
    )
