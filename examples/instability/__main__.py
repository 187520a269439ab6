"""Trains a small Llama to retrieve from three starts, and shows which of them dies.

    python -m examples.instability --data ../shared/data --output build/instability

CSPLADE (arXiv 2504.10816, section 3.1) reports that contrastive training of a causal language model is unstable at its
beginning, and that adaptation with cross-entropy over ``log1p(relu(logits))`` cures it. The starts here are random
weights, ordinary next-token adaptation, and CSPLADE's; each is trained under several settings with several seeds. A run
that is finished is not run again, and one that was stopped goes on. The table and the plot are made at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.study_material import DEV_FOLDER, TOKENIZER_FOLDER, TRAIN_FILE, prepare, random_llama
from pyserini_llm_sparse.errors import LlmSparseError
from pyserini_llm_sparse.training.config import AdaptConfig, RetrieveConfig
from pyserini_llm_sparse.training.run import adapt, retrieve

SOURCES = ("squad", "stackexchange", "medquad")
ARMS = {"none": None, "next-token": "next-token", "CSPLADE": "sparse-next-token"}
BATCH = 24

log = logging.getLogger("instability")


@dataclass(frozen=True)
class Setting:
    """What is varied: peak learning rate, FLOPs weight of both sides, and whether input and output share weights."""

    learning_rate: float
    flops_weight: float
    tied: bool = True

    @property
    def name(self) -> str:
        """A name for files and tables."""
        return f"lr{self.learning_rate:g}-flops{self.flops_weight:g}{'' if self.tied else '-untied'}"


SETTINGS = (Setting(1e-3, 3e-3), Setting(1e-4, 3e-3), Setting(1e-3, 3e-2), Setting(1e-3, 3e-3, tied=False))


def main() -> None:
    """Run everything that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the first setting; the others have two at most")
    parser.add_argument("--adaptation-steps", type=int, default=250)
    parser.add_argument("--steps", type=int, default=100, help="steps of contrastive training")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="how many of the settings")
    parser.add_argument("--report-to", type=Path, help="folder for the table and the plot; by default --output")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    work: Path = arguments.output
    prepare(arguments.data, SOURCES, work, pairs=8000, dev_documents=300, dev_queries=120, vocabulary=4096)
    settings = SETTINGS[: arguments.settings]
    runs = [(settings[0], seed) for seed in range(arguments.seeds)]
    runs += [(setting, seed) for seed in range(min(2, arguments.seeds)) for setting in settings[1:]]
    for setting, seed in runs:
        for arm, objective in ARMS.items():
            start = _start(work, setting.tied, objective, seed, arguments.adaptation_steps)
            _retrieve(work, setting, arm, start, seed, arguments.steps)
    from examples.instability.report import write_report

    write_report(work, settings, tuple(ARMS), arguments.report_to or work)


def run_folder(work: Path, setting: Setting, arm: str, seed: int) -> Path:
    """Return where a run's result goes."""
    return work / "runs" / setting.name / f"{arm}-seed{seed}"


def _start(work: Path, tied: bool, objective: str | None, seed: int, steps: int) -> Path:
    """Return the model that a run starts from, after its adaptation if there is one."""
    kind = "tied" if tied else "untied"
    initial = work / "starts" / f"{kind}-seed{seed}"
    random_llama(
        initial, work / TOKENIZER_FOLDER, layers=2, hidden=128, feed_forward=384, heads=4, tied=tied, seed=seed
    )
    if objective is None:
        return initial
    adapted = work / "starts" / f"{kind}-seed{seed}-{objective}"
    if not adapted.is_dir():
        report = adapt(
            AdaptConfig(
                output=adapted,
                seed=seed,
                model=str(initial),
                attention="causal",
                texts=(str(work / TRAIN_FILE),),
                objective=objective,  # type: ignore[arg-type]
                sequence_length=128,
                held_out_texts=32,
                trainer={
                    "max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 0.1,
                    "lr_scheduler_type": "cosine", "logging_steps": 20, "eval_steps": steps, "use_cpu": True,
                    "report_to": [],
                },
            )
        )  # fmt: skip
        log.info(report.summary())
    return adapted


def _retrieve(work: Path, setting: Setting, arm: str, start: Path, seed: int, steps: int) -> None:
    """Train one retriever; what a run that fails said is kept as its result."""
    output = run_folder(work, setting, arm, seed)
    failure = output.parent / f"{output.name}.failed.json"
    if output.is_dir() or failure.is_file():
        return
    settings: dict[str, Any] = {
        "max_steps": steps, "per_device_train_batch_size": BATCH, "learning_rate": setting.learning_rate,
        "warmup_steps": 0.05, "lr_scheduler_type": "cosine", "logging_steps": 1, "eval_on_start": True,
        "eval_steps": max(1, steps // 5), "use_cpu": True, "report_to": [],
    }  # fmt: skip
    try:
        report = retrieve(
            RetrieveConfig(
                output=output,
                seed=seed,
                model=str(start),
                attention="causal",
                train=(str(work / TRAIN_FILE),),
                query_regulariser_weight=setting.flops_weight,
                document_regulariser_weight=setting.flops_weight,
                query_max_length=24,
                document_max_length=48,
                stop_on_collapse=False,
                dev=work / DEV_FOLDER,
                trainer=settings,
            )
        )
    except LlmSparseError as error:
        failure.parent.mkdir(parents=True, exist_ok=True)
        failure.write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        log.info("%s: %s", output, error)
    else:
        log.info(report.summary())


if __name__ == "__main__":
    main()
