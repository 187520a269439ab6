"""``train calibrate``: the vector of a calibrated head, fitted on texts, with the model that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyserini_llm_sparse.errors import DataError, UsageError
from pyserini_llm_sparse.modelling.backbone.calibrated import fit_head_shift, shift_head
from pyserini_llm_sparse.modelling.backbone.devices import DTYPES
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, load_checkpoint, require_replaceable, save_checkpoint
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.tensors import stored_dtype
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.modelling.torch_engine import TorchEngine, TorchLoader
from pyserini_llm_sparse.training.config.fields import CalibrateConfig
from pyserini_llm_sparse.training.data.sources import read_texts

SAMPLE = 16  # texts whose terms are counted


@dataclass(frozen=True)
class CalibrationReport:
    """What calibration changed.

    Attributes:
        output: Directory of the result.
        texts: Number of texts that it was fitted on.
        before: Mean number of terms of a document before.
        after: The same after.
    """

    output: Path
    texts: int
    before: float
    after: float

    def summary(self) -> str:
        """Return one line that says what there is now."""
        return (
            f"{self.output}: calibrated on {self.texts:,} texts: a document has {self.after:,.0f} terms, "
            f"before {self.before:,.0f}"
        )


def calibrate(config: CalibrateConfig, overwrite: bool = False) -> CalibrationReport:
    """Fit the vector and write the model with it, whole or not at all; the weights stay as they are.

    Args:
        config: The run file.
        overwrite: Whether an earlier result is replaced.

    Raises:
        UsageError: The output holds something else, or an earlier result and `overwrite` is not given; or the model's
            name sets fields.
        LlmSparseError: Model or texts cannot be read.
    """
    if not overwrite and config.output.exists():
        raise UsageError(f"{config.output}: is there already; give --overwrite to replace it, or another output")
    require_replaceable(config.output)
    checkpoint = _checkpoint(config)
    texts = list(islice((text for source in config.texts for text in read_texts(source)), config.number_of_texts))
    if not texts:
        raise DataError(f"{', '.join(config.texts)}: no text in it; name another source")
    engine = TorchLoader(checkpoint, None, config.dtype).load()
    shift = fit_head_shift(engine.backbone, _states(engine, checkpoint, texts), config.kth_logit)
    before = _terms(engine, checkpoint, texts)
    spec = checkpoint.spec.replace(calibrated_head=True)
    model: Any = engine.backbone.model
    stored = stored_dtype(checkpoint.base or checkpoint.folder) or config.dtype
    save_checkpoint(config.output, model.to(DTYPES[stored]), checkpoint.tokenizer, spec, head_shift=shift)
    model.to(DTYPES[config.dtype])
    shift_head(engine.backbone, shift)
    return CalibrationReport(config.output, len(texts), before, _terms(engine, checkpoint, texts))


def _checkpoint(config: CalibrateConfig) -> Checkpoint:
    named = parse_encoder_name(config.model)
    if named.overrides:
        raise UsageError(
            f"model: {config.model}: fields of the encoding spec are fields of the run file; give them there"
        )
    reference = replace(named, trust_remote_code=config.trust_remote_code)
    folder = ModelFolder.find(reference)
    folder.require_causal(config.model)
    given = {"calibrated_head": False, "document_max_length": config.sequence_length}
    given |= {name: getattr(config, name) for name in ("attention", "text_normalisation")}
    if folder.known is not None or folder.has_spec:
        given = {name: value for name, value in given.items() if name in {"calibrated_head"} | config.model_fields_set}
    return load_checkpoint(replace(reference, overrides=given), folder)


@torch.inference_mode()
def _states(engine: TorchEngine, checkpoint: Checkpoint, texts: list[str]) -> Iterator[Tensor]:
    """Yield the hidden states of each text's pooled positions."""
    tokenization = Tokenization(checkpoint.tokenizer, checkpoint.spec, checkpoint.vocabulary_size)
    for text in tokenization.token_ids(texts, "document"):
        if text.ids:
            batch = tokenization.batch([text], device=engine.backbone.device)
            states = engine.backbone.hidden(batch.input_ids, batch.attention_mask)
            yield states[0][batch.pool_mask[0].bool()]


def _terms(engine: TorchEngine, checkpoint: Checkpoint, texts: list[str]) -> float:
    """Return the mean number of terms of the first texts."""
    tokenization = Tokenization(checkpoint.tokenizer, checkpoint.spec, checkpoint.vocabulary_size)
    tokenised = tokenization.token_ids(texts[:SAMPLE], "document")
    counts = [engine.encode([text], None).active_terms()[0] for text in tokenised if text.ids]
    return float(sum(counts) / max(len(counts), 1))
