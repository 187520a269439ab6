"""Trains a small Llama to retrieve from four starts, and shows which of them gets anywhere.

    python -m examples.instability --data ../shared/data --output build/instability

CSPLADE (arXiv 2504.10816, section 3.1) reports that contrastive training of a causal language model is unstable at its
beginning, and that adaptation with cross-entropy over ``log1p(relu(logits))`` cures it. Here a small Llama is
pre-trained on the passages first. It is then trained to retrieve as it is, after more of the same next-token training,
or after CSPLADE's adaptation, both done once; and, to compare with, from random weights. Contrastive training is done
under several settings with several seeds. A run that is finished is not run again, and one that was stopped goes on.
The table and the plot are made at the end, and with --report at any time.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from examples.instability.report import write_report
from examples.instability.settings import ADAPTATIONS, ARMS, BATCH, SETTINGS, SOURCES, Setting, run_folder
from examples.study_material import DEV_FOLDER, TOKENIZER_FOLDER, TRAIN_FILE, prepare, random_llama
from pyserini_llm_sparse.errors import LlmSparseError
from pyserini_llm_sparse.training.config.fields import AdaptConfig, RetrieveConfig
from pyserini_llm_sparse.training.run import adapt, retrieve

log = logging.getLogger("instability")


def main() -> None:
    """Run everything that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of contrastive training")
    parser.add_argument("--pretraining-steps", type=int, default=1500)
    parser.add_argument("--adaptation-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100, help="steps of contrastive training")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="how many of the settings")
    parser.add_argument("--report", type=Path, help="only write table and plot of what there is, to this folder")
    arguments = parser.parse_args()
    work: Path = arguments.output
    settings = SETTINGS[: arguments.settings]
    if arguments.report is None:
        if arguments.data is None:
            parser.error("--data is needed")
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        log.setLevel(logging.INFO)
        prepare(arguments.data, SOURCES, work, pairs=8000, dev_documents=300, dev_queries=120, vocabulary=4096)
        runs = [(setting, seed) for seed in range(arguments.seeds) for setting in settings]
        for setting, seed in runs:
            for arm in ARMS:
                start = _start(work, arm, seed, arguments.pretraining_steps, arguments.adaptation_steps)
                _retrieve(work, setting, arm, start, seed, arguments.steps)
    write_report(work, settings, ARMS, arguments.report or work)


def _start(work: Path, arm: str, seed: int, pretraining_steps: int, adaptation_steps: int) -> Path:
    """Return the model that a run starts from, after what makes it."""
    tokenizer = work / TOKENIZER_FOLDER
    shape = {"layers": 2, "hidden": 128, "feed_forward": 384, "heads": 4, "tied": True}
    if arm == "random weights":
        untrained = work / "starts" / f"random-seed{seed}"
        random_llama(untrained, tokenizer, **shape, seed=seed)  # type: ignore[arg-type]
        return untrained
    initial, pretrained = work / "starts" / "initial", work / "starts" / "pretrained"
    random_llama(initial, tokenizer, **shape, seed=100)  # type: ignore[arg-type]
    _adapt(work, initial, pretrained, 0.0, 100, pretraining_steps, 3e-3)
    if arm == "no adaptation":
        return pretrained
    adapted = work / "starts" / arm.replace(" ", "-")
    _adapt(work, pretrained, adapted, ADAPTATIONS[arm], 101, adaptation_steps, 3e-3)
    return adapted


def _adapt(
    work: Path, model: Path, output: Path, sparse_weight: float, seed: int, steps: int, learning_rate: float
) -> None:
    """Train a language model on the passages of the training pairs, unless that is done."""
    if output.is_dir():
        return
    report = adapt(
        AdaptConfig(
            output=output,
            seed=seed,
            model=str(model),
            attention="causal",
            texts=(str(work / TRAIN_FILE),),
            objective="sparse-next-token" if sparse_weight else "next-token",
            sparse_weight=sparse_weight,
            sequence_length=128,
            held_out_texts=32,
            trainer={
                "max_steps": steps, "per_device_train_batch_size": 8, "learning_rate": learning_rate,
                "warmup_steps": 0.1, "lr_scheduler_type": "cosine", "logging_steps": 20, "eval_steps": steps,
                "use_cpu": True, "report_to": [],
            },
        )
    )  # fmt: skip
    log.info(report.summary())


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
