"""The two phases that train a model, from run file to result: data, model, Trainer, evaluation and saving together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments, set_seed

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.arguments import training_arguments
from pyserini_llm_sparse.training.config.fields import AdaptConfig, ModelConfig, RetrieveConfig
from pyserini_llm_sparse.training.data.batching import ExampleDataset, RetrievalCollator, StreamedExamples
from pyserini_llm_sparse.training.data.drawing import usable_examples
from pyserini_llm_sparse.training.data.packing import adaptation_data
from pyserini_llm_sparse.training.data.sources import read_examples, source_fingerprints
from pyserini_llm_sparse.training.loop.run_folder import RunFolder
from pyserini_llm_sparse.training.loop.trainer import AdaptationTrainer, RetrievalTrainer
from pyserini_llm_sparse.training.results.evaluation import DevelopmentSet, evaluate, parse_measures
from pyserini_llm_sparse.training.results.provenance import TrainingRecord, environment
from pyserini_llm_sparse.training.results.result import require_expressible, save_adaptation, save_result
from pyserini_llm_sparse.training.retriever.building import build_adaptation_model, build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.query_table import starting_query_weights

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunReport:
    """The outcome of a run.

    Attributes:
        output: Directory of the result.
        steps: Optimiser steps.
        seconds: Wall time of the training, resumed parts together.
        measures: What the result reaches on the development set or the held-out text.
    """

    output: Path
    steps: int
    seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> str:
        """Return one line that says what there is now."""
        found = "".join(f", {name} {value:.4f}" for name, value in list(self.measures.items())[:1])
        return f"{self.output}: trained {self.steps:,} steps in {self.seconds / 60:.1f} min{found}"


def adapt(config: AdaptConfig, overwrite: bool = False) -> RunReport:
    """Adapt a language model as a run file says; an interrupted run goes on.

    Args:
        config: The run file.
        overwrite: Whether an earlier result, or an unfinished run with other settings, is replaced.

    Raises:
        LlmSparseError: Settings, data or model are not in order, or the training has failed.
    """
    checkpoint = starting_checkpoint(config)
    folder, arguments = _begin(config, overwrite, evaluates=config.held_out_texts > 0)
    training, held_out, collator = adaptation_data(config, checkpoint)
    trainer = AdaptationTrainer(
        build_adaptation_model(config, checkpoint),
        arguments,
        config=config,
        train_dataset=training,
        eval_dataset=held_out,
        data_collator=collator,
        callbacks=[folder.clock()],
    )
    _train(trainer, folder)
    measures: dict[str, float] = {}
    if held_out is not None:
        measures = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        measures.pop("runtime", None)
    facts = {"optimiser steps": trainer.state.global_step, "sequences": len(training)}
    return _finish(trainer, folder, checkpoint, measures, facts, source_fingerprints(config.texts))


def retrieve(config: RetrieveConfig, overwrite: bool = False) -> RunReport:
    """Train a retriever as a run file says; an interrupted run goes on. The arguments are those of `adapt`.

    Raises:
        LlmSparseError: Settings, data or model are not in order, or the training has failed.
    """
    if config.dev is not None:
        parse_measures(config.dev_metric)
    checkpoint = starting_checkpoint(config)
    config = config.continuing(checkpoint.spec)
    folder, arguments = _begin(config, overwrite, evaluates=config.dev is not None)
    development = None
    if config.dev is not None:
        development = DevelopmentSet.load(config.dev, config.dev_split, config.dev_queries)
    tokenization = Tokenization(checkpoint.tokenizer, config.encoding_spec(), checkpoint.vocabulary_size)
    examples: ExampleDataset | StreamedExamples
    if config.streaming:
        examples = StreamedExamples(config.train, config.seed, select=partial(usable_examples, config=config))
    else:
        given = chain.from_iterable(map(read_examples, config.train))
        examples = ExampleDataset(given, partial(usable_examples, config=config))
    model = build_model(config, checkpoint, _query_weights(config, checkpoint, tokenization, examples))

    def measured(model: Any, own_terms_only: bool = False) -> dict[str, float]:
        if development is None:
            return {}
        return evaluate(
            model, tokenization, development, config.dev_metric, arguments.per_device_eval_batch_size,
            trainer.accelerator, own_terms_only=own_terms_only, autocast=trainer.accelerator.autocast,
        )  # fmt: skip

    trainer = RetrievalTrainer(
        model,
        arguments,
        config=config,
        train_dataset=examples,
        data_collator=RetrievalCollator(tokenization, config),
        evaluator=measured if development is not None else None,
        callbacks=[folder.clock()],
    )
    _train(trainer, folder)
    measures = measured(trainer.model_wrapped, own_terms_only=config.representation == "sparse")
    queries = arguments.train_batch_size * arguments.world_size
    facts: dict[str, Any] = {
        "optimiser steps": trainer.state.global_step,
        "queries in a step": queries * arguments.gradient_accumulation_steps,
        "documents that a query is compared with": (queries if config.in_batch_negatives else 1)
        * (1 + config.negatives),
    }
    if isinstance(examples, ExampleDataset):
        facts["training examples"] = len(examples)
    return _finish(trainer, folder, checkpoint, measures, facts, source_fingerprints(config.train))


def _begin(config: ModelConfig, overwrite: bool, evaluates: bool) -> tuple[RunFolder, TrainingArguments]:
    """Check what can be checked before anything is computed, and make or take over the run's folder."""
    require_expressible(config)
    folder = RunFolder(config)
    arguments = training_arguments(config, folder.path, evaluates=evaluates)
    set_seed(config.seed)
    state = PartialState()
    if state.is_main_process:
        folder.prepare(overwrite)
    state.wait_for_everyone()
    return folder, arguments


def _query_weights(
    config: RetrieveConfig,
    checkpoint: Checkpoint,
    tokenization: Tokenization,
    examples: ExampleDataset | StreamedExamples,
) -> Any:
    """Return where the table of inference-free queries starts; None where it is the model's own, or not needed."""
    if config.query_encoder != "inference-free" or checkpoint.query_term_weights is not None:
        return None
    if not isinstance(examples, ExampleDataset):
        raise UsageError(
            "query_encoder: inference-free: term weights cannot be taken from a stream that is read only once; set "
            "streaming: false, or start from a model that has a table"
        )
    documents = dict.fromkeys(text for example in examples.examples for text in example.positives)
    return starting_query_weights(documents, tokenization, checkpoint.vocabulary_size)


def _train(trainer: AdaptationTrainer | RetrievalTrainer, folder: RunFolder) -> None:
    last = folder.last_checkpoint()
    if last is not None:
        _logger.info("%s: going on from %s", folder.path, Path(last).name)
    trainer.go_on(last)


def _finish(
    trainer: AdaptationTrainer | RetrievalTrainer,
    folder: RunFolder,
    checkpoint: Checkpoint,
    measures: Mapping[str, float],
    facts: Mapping[str, Any],
    data: list[dict[str, Any]],
) -> RunReport:
    """Save the result and free the disk of checkpoints; only the first process writes."""
    model: Any = trainer.finished_model()
    config, seconds = trainer.run_config, folder.seconds()
    if trainer.accelerator.is_main_process:
        record = TrainingRecord(
            config=config,
            environment=environment(trainer.accelerator),
            data=data,
            log=trainer.state.log_history,
            measures=measures,
            facts=facts,
            seconds=seconds,
        )
        save = save_adaptation if isinstance(config, AdaptConfig) else save_result
        save(model, checkpoint.tokenizer, record)
        folder.finish()
    trainer.accelerator.wait_for_everyone()
    return RunReport(config.output, trainer.state.global_step, seconds, measures)
