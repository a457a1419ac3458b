"""Pointwise distillation: mean squared error on the teacher's raw logits.

The published Ettin recipe: one epoch, linear warm-up over 3% of the steps, then linear decay, bf16, seed 12;
learning rate and global batch by size of the student.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

SEED = 12
WARMUP_SHARE = 0.03
MICRO_BATCH = 64  # pairs on the device at once; gradients of larger batches are accumulated


@dataclass(frozen=True)
class Recipe:
    """Settings of one run. batch: pairs per optimiser step; max_tokens: limit of a pair while training."""

    learning_rate: float
    batch: int
    epochs: float = 1.0
    max_tokens: int = 512


# Upper bound of the student's parameters in millions → the published setting.
# https://huggingface.co/blog, "Introducing the Ettin Reranker Family", training section.
PUBLISHED = {
    25: Recipe(2.4e-4, 1024),
    50: Recipe(1.2e-4, 512),
    110: Recipe(3e-5, 256),
    275: Recipe(1.5e-5, 192),
    700: Recipe(7e-6, 256),
}
LARGEST = Recipe(3e-6, 512)


def published_recipe(parameters: int) -> Recipe:
    """The published setting for a student of this many parameters."""
    for millions, recipe in PUBLISHED.items():
        if parameters <= millions * 1e6:
            return recipe
    return LARGEST


def train(student: "CrossEncoder", triples: Path, work: Path, recipe: Recipe, limit: int | None = None) -> None:
    """Train `student` on a JSONL file of {"query", "document", "score"} and save it to `work/student`.

    limit: use only the first N triples. Checkpoints go to `work/checkpoints` every 5% of the steps; an interrupted run
    continues from the last one.
    """
    from datasets import load_dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import MSELoss

    data = load_dataset("json", data_files=str(triples), split="train").select_columns(["query", "document", "score"])
    if limit is not None:
        data = data.select(range(min(limit, len(data))))
    serving_tokens, student.max_length = student.max_length, recipe.max_tokens
    checkpoints = work / "checkpoints"
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=min(recipe.batch, MICRO_BATCH),
        gradient_accumulation_steps=max(1, round(recipe.batch / MICRO_BATCH)),
        learning_rate=recipe.learning_rate,
        warmup_ratio=WARMUP_SHARE,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=SEED,
        save_steps=0.05,
        save_total_limit=1,
        logging_steps=0.01,
        report_to="none",
    )
    trainer = CrossEncoderTrainer(model=student, args=arguments, train_dataset=data, loss=MSELoss(student))
    trainer.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")))
    student.max_length = serving_tokens
    student.save_pretrained(str(work / "student"), create_model_card=False)
