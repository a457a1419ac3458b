"""Pointwise distillation: mean squared error on the teacher's raw logits, by Sentence Transformers' trainer."""

import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import MSELoss
from transformers import PrinterCallback, TrainerCallback

from rankfleet.core.errors import RankfleetError
from rankfleet.distill.held_back import ndcg, since_best
from rankfleet.distill.recipe import WARMUP_SHARE, WEIGHT_DECAY, Recipe, micro_batch
from rankfleet.distill.sources import Group
from rankfleet.distill.steps import by_length
from rankfleet.engine.native.library import cpu_flags
from rankfleet.engine.runtime.rate_cache import processor

MEASURED = "eval_ndcg@10"
STEP_SHARE = 0.05  # of the steps between two measurements and checkpoints, as published
# Pairs on the device at once. On a CPU the padding of pairs beside longer ones costs more than small products: 8 gave
# 1.2 times the pairs per second of 16, and 1.7 times those of 32.
MICRO_BATCH_GPU, MICRO_BATCH_CPU = 64, 8
COLUMNS = {"query": datasets.Value("string"), "document": datasets.Value("string"), "score": datasets.Value("float32")}
STATE = "trainer_state.json"  # written last into a checkpoint


@dataclass(frozen=True)
class Trained:
    """How training went. log: the trainer's; steps: done, of those planned."""

    log: list[dict[str, float]]
    steps: int
    planned_steps: int


class RankingEvaluator(BaseEvaluator):
    """nDCG@10 on held-back queries, in the precision of the training."""

    def __init__(self, groups: Sequence[Group], batch: int, bfloat16: bool) -> None:
        super().__init__()
        self._batch = batch
        self._bfloat16 = bfloat16
        self.primary_metric = "ndcg@10"
        self._groups = groups
        self._pairs = [(group.query, document) for group in groups for document in group.documents]
        self._ends = np.cumsum([len(group.documents) for group in groups])[:-1]

    def __call__(self, model: Any, *_: object, **__: object) -> dict[str, float]:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self._bfloat16):
            scores = model.predict(
                self._pairs, batch_size=self._batch, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        check_finite(float(np.abs(scores).max()), "scores of held-back queries")
        return {self.primary_metric: ndcg(self._groups, np.split(scores, self._ends))}


class Trainer(CrossEncoderTrainer):
    """Sentence Transformers' trainer, without a model card in each checkpoint: writing one takes longer than the
    checkpoint."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save_pretrained(str(output_dir or self.args.output_dir), create_model_card=False)


class Watch(TrainerCallback):
    """Shows progress, stops early, and refuses to go on with a loss that is not finite.

    It keeps nothing itself: the history is in the trainer's state, which checkpoints hold.
    """

    def __init__(self, patience: int | None, progress: Callable[[int, int], object]) -> None:
        self._patience = patience
        self._progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.on_evaluate(args, state, control)  # a run may have been killed after it was to stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        check_finite(logs.get("loss", 0.0), f"loss at step {state.global_step}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        values = [value for step, value in measurements(state.log_history, MEASURED) if step]
        if self._patience is not None and since_best(values) >= self._patience:
            control.should_training_stop = True


def silence_libraries() -> None:
    """Progress bars and reports of the libraries, beside which one's own could not be read."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def check_finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise RankfleetError(f"training diverged: {what} not finite. Try a lower --learning-rate, in a new folder")


def measurements(history: Sequence[dict[str, float]], key: str) -> list[tuple[int, float]]:
    """(step, value) of one figure, in the trainer's log."""
    return [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]


def train(
    student: CrossEncoder,
    rows: Path,
    held_back: Sequence[Group],
    work: Path,
    recipe: Recipe,
    precision: Literal["bfloat16", "float32"],
    seed: int,
    patience: int,
    progress: Callable[[int, int], object],
) -> Trained:
    """Train `student` on a JSONL file of {"query", "document", "score"} and save the best checkpoint, by nDCG@10 on the
    held-back queries, to `work/student`; without held-back queries, the last.

    Checkpoints go to `work/checkpoints` every 5% of the steps; an interrupted run continues from the last one. Training
    stops after `patience` measurements without a better one. progress: called with the steps done and to do.

    The same arguments give the same file to the byte, interrupted or not, on the same kind of device with the same
    number of threads.
    """
    shutil.rmtree(work / "cache", ignore_errors=True)
    data = datasets.Dataset.from_json(
        str(rows), features=datasets.Features(COLUMNS), cache_dir=str(work / "cache"), keep_in_memory=False
    )
    serving_tokens, student.max_seq_length = student.max_seq_length, recipe.max_tokens
    checkpoints = (work / "checkpoints").resolve()
    last = last_checkpoint(checkpoints)
    gpu = torch.cuda.is_available()
    bfloat16 = precision == "bfloat16"
    at_once = MICRO_BATCH_GPU if gpu else MICRO_BATCH_CPU
    micro = micro_batch(recipe.batch, at_once)
    measured: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": STEP_SHARE,
        "eval_on_start": last is None,
        "load_best_model_at_end": True,
        "metric_for_best_model": MEASURED,
        "greater_is_better": True,
    }
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch // micro,
        batch_sampler=by_length(recipe.batch),
        learning_rate=recipe.learning_rate,
        warmup_steps=WARMUP_SHARE,
        lr_scheduler_type="linear",
        weight_decay=WEIGHT_DECAY,
        bf16=bfloat16,
        use_cpu=not gpu,
        seed=seed,
        save_steps=STEP_SHARE,
        save_total_limit=1,
        logging_steps=0.01,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        **(measured if held_back else {}),
    )
    trainer = Trainer(
        model=student,
        args=arguments,
        train_dataset=data,
        loss=MSELoss(student),
        evaluator=RankingEvaluator(held_back, at_once, bfloat16) if held_back else None,
        callbacks=[Watch(patience if held_back else None, progress)],
    )
    trainer.remove_callback(PrinterCallback)
    if not gpu:  # 1.5 times as fast there in bfloat16 as PyTorch's fused attention, as fast in float32
        encoder: Any = student[0].model
        encoder.set_attn_implementation("eager")
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # as in the published models; drawing the masks takes a third of the time on a CPU
    with deterministic():
        trainer.train(resume_from_checkpoint=last)
    if held_back and not Path(trainer.state.best_model_checkpoint or "").is_dir():
        raise RankfleetError(f"the best checkpoint is no longer in {checkpoints}; remove {work} and begin anew")
    student.max_seq_length = serving_tokens
    student.save_pretrained(str(work / "student"), create_model_card=False)
    return Trained(list(trainer.state.log_history), trainer.state.global_step, trainer.state.max_steps)


def training_precision() -> Literal["bfloat16", "float32"]:
    """What this computer trains in."""
    fast = torch.cuda.is_available() or has_fast_bfloat16(cpu_flags(), processor().get("vendor_id", ""))
    return "bfloat16" if fast else "float32"


def has_fast_bfloat16(flags: Collection[str], vendor: str) -> bool:
    """Whether PyTorch trains faster in bfloat16 than in float32 on a CPU with these instructions.

    A rule and not a measurement, so that the same seed gives the same file. With AMX it does; with AVX512-BF16 alone it
    does on AMD (twice the pairs per second of a BERT of two layers) and not on Intel (half the speed of its products).
    """
    if "avx512_bf16" not in flags:
        return False
    return "amx_bf16" in flags or vendor == "AuthenticAMD"


def last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint; one that a killed run was writing is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in found:
        if not (path / STATE).exists():
            shutil.rmtree(path)
    return next((str(path) for path in reversed(found) if path.exists()), None)


@contextmanager
def deterministic() -> Iterator[None]:
    """Only algorithms that give the same bits every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for that
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
