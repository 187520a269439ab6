"""A SPLADE of the usual kind, made by sentence-transformers from a BERT encoder's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

from examples.comparison.settings import BATCH, DOCUMENT_LENGTH, FLOPS_WEIGHT, LEARNING_RATE, WARM_UP


def train_bert_splade(start: Path, rows: list[dict[str, str]], steps: int, output: Path) -> float:
    """Train and save it; return the training's seconds.

    The encoder has no masked-LM head, so the head's transformation starts as the identity and its output is tied to
    the input embedding, as in BERT.

    Args:
        start: Folder of a BERT encoder.
        rows: Examples with ``anchor``, ``positive`` and ``negative``.
        steps: Optimiser steps of `BATCH` examples.
        output: Where it goes.
    """
    transformer = MLMTransformer(str(start), max_seq_length=DOCUMENT_LENGTH)
    _identity_head(transformer)
    model = SparseEncoder(modules=[transformer, SpladePooling(pooling_strategy="max")])
    loss = SpladeLoss(
        model,
        SparseMultipleNegativesRankingLoss(model),
        document_regularizer_weight=FLOPS_WEIGHT,
        query_regularizer_weight=FLOPS_WEIGHT,
    )
    arguments = SparseEncoderTrainingArguments(
        output_dir=str(output.with_name(output.name + ".run")),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        warmup_steps=WARM_UP,
        lr_scheduler_type="cosine",
        save_strategy="no",
        logging_steps=max(1, steps // 20),
        report_to=[],
        use_cpu=True,
        seed=42,
    )
    trainer = SparseEncoderTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), loss=loss)
    seconds: float = trainer.train().metrics["train_runtime"]
    model.save_pretrained(str(output))
    return seconds


@torch.no_grad()
def _identity_head(transformer: Any) -> None:
    """Let the head's untrained transformation pass on what the encoder says."""
    transform = transformer.auto_model.cls.predictions.transform
    torch.nn.init.eye_(transform.dense.weight)
    torch.nn.init.zeros_(transform.dense.bias)
    transform.transform_act_fn = torch.nn.GELU()
