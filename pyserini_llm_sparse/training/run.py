"""The two phases that train a model, from run file to result: data, model, Trainer, evaluation and saving together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, set_seed

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.files.digests import KnownDigests
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.arguments import training_arguments
from pyserini_llm_sparse.training.config.fields import AdaptConfig, ModelConfig, RetrieveConfig
from pyserini_llm_sparse.training.data.batching import ExampleDataset, RetrievalCollator, StreamedExamples
from pyserini_llm_sparse.training.data.drawing import usable_examples
from pyserini_llm_sparse.training.data.packing import adaptation_data
from pyserini_llm_sparse.training.data.sources import read_examples, source_fingerprints
from pyserini_llm_sparse.training.loop.identity import stands_on
from pyserini_llm_sparse.training.loop.processes import in_first_process, of_first_process
from pyserini_llm_sparse.training.loop.run_folder import RunFolder
from pyserini_llm_sparse.training.loop.trainer import AdaptationTrainer, RetrievalTrainer
from pyserini_llm_sparse.training.outcome import RunReport, finish, trained_model
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet
from pyserini_llm_sparse.training.results.evaluation import Measures, evaluate, mean_measures, parse_measures
from pyserini_llm_sparse.training.results.progress import save_start
from pyserini_llm_sparse.training.results.result import require_expressible
from pyserini_llm_sparse.training.retriever.building import build_adaptation_model, build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.term_statistics import TermStatistics, term_statistics

_logger = logging.getLogger(__name__)


def adapt(config: AdaptConfig, overwrite: bool = False) -> RunReport:
    """Adapt a language model as a run file says; an interrupted run goes on.

    Args:
        config: The run file.
        overwrite: Whether an earlier result, or an unfinished run with other settings, is replaced.

    Raises:
        LlmSparseError: Settings, data or model are not in order, or the training has failed.
    """
    checkpoint = starting_checkpoint(config)
    run = _prepared(config, checkpoint, overwrite, {"texts": config.texts}, evaluates=config.held_out_texts > 0)
    training, held_out, collator = adaptation_data(config, checkpoint, of_first_process(run.data))
    model = build_adaptation_model(config, checkpoint)
    run.begin()
    trainer = AdaptationTrainer(
        model,
        run.arguments,
        config=config,
        train_dataset=training,
        eval_dataset=held_out,
        data_collator=collator,
        callbacks=[run.folder.clock()],
    )
    _train(trainer, run.folder)
    model = trained_model(trainer, checkpoint)
    measures: dict[str, float] = {}
    if held_out is not None:
        measures = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        measures.pop("runtime", None)
    facts = {"optimiser steps": trainer.state.global_step, "sequences": len(training)}
    return finish(trainer, model, run.folder, run.data, checkpoint, measures, facts)


def retrieve(config: RetrieveConfig, overwrite: bool = False) -> RunReport:
    """Train a retriever as a run file says; an interrupted run goes on. The arguments are those of `adapt`.

    Raises:
        LlmSparseError: Settings, data or model are not in order, or the training has failed.
    """
    if config.dev is not None:
        parse_measures(config.dev_metric)
    checkpoint = starting_checkpoint(config)
    config = config.continuing(checkpoint.spec)
    sources = {"train": config.train, "dev": [f"{path}#{split}" for path, split in config.dev_sets.values()]}
    run = _prepared(config, checkpoint, overwrite, sources, evaluates=config.dev is not None)
    arguments = run.arguments
    developments = {
        name: DevelopmentSet.load(path, split, config.dev_queries) for name, (path, split) in config.dev_sets.items()
    }
    tokenization = Tokenization(checkpoint.tokenizer, config.encoding_spec(), checkpoint.vocabulary_size)
    examples: ExampleDataset | StreamedExamples
    if config.streaming:
        examples = StreamedExamples(config.train, config.seed, select=partial(usable_examples, config=config))
    else:
        given = chain.from_iterable(map(read_examples, config.train))
        examples = ExampleDataset(given, partial(usable_examples, config=config))
    model = build_model(config, checkpoint, statistics=_statistics(config, checkpoint, tokenization, examples))
    run.begin()

    def measured(model: Any, own_terms_only: bool = False) -> Measures:
        found = mean_measures({
            name: evaluate(
                model, tokenization, development, config.dev_metric, arguments.per_device_eval_batch_size,
                trainer.accelerator, own_terms_only=own_terms_only, autocast=trainer.accelerator.autocast,
            )
            for name, development in developments.items()
        })  # fmt: skip
        if not trainer.state.global_step and trainer.is_world_process_zero():
            save_start(run.folder.start_measures, found.by_query)
        return found

    trainer = RetrievalTrainer(
        model,
        arguments,
        config=config,
        train_dataset=examples,
        data_collator=RetrievalCollator(tokenization, config),
        evaluator=measured if developments else None,
        callbacks=[run.folder.clock()],
    )
    _train(trainer, run.folder)
    model = trained_model(trainer, checkpoint)
    measures = Measures()
    if developments:
        # What is saved; of a sharded model, which no process has as a whole, before an adapter is merged.
        measured_model = trainer.model_wrapped if trainer.is_sharded else model
        measures = measured(measured_model, own_terms_only=config.representation == "sparse")
    queries = arguments.train_batch_size * arguments.world_size
    facts: dict[str, Any] = {
        "optimiser steps": trainer.state.global_step,
        "queries in a step": queries * arguments.gradient_accumulation_steps,
        "documents that a query is compared with": (queries if config.in_batch_negatives else 1)
        * (1 + config.negatives),
    }
    if isinstance(examples, ExampleDataset):
        facts["training examples"] = len(examples)
    return finish(trainer, model, run.folder, run.data, checkpoint, measures, facts)


@dataclass(frozen=True)
class _Run:
    """A run that may begin: nothing speaks against it, and its folder is locked.

    Attributes:
        folder: Its folder.
        arguments: The Trainer's.
        data: The fingerprints of what is trained on; known in the first process only, as the next two.
        stands_on: What the result depends on.
        digests: Those of the files.
        overwrite: Whether another run's work is removed.
    """

    folder: RunFolder
    arguments: TrainingArguments
    data: list[dict[str, Any]]
    stands_on: dict[str, Any]
    digests: KnownDigests
    overwrite: bool

    def begin(self) -> None:
        """Take the folder over; to be called when data and model have been read, in all processes."""
        in_first_process(lambda: self.folder.begin(self.overwrite, self.stands_on, self.digests))


def _prepared(
    config: ModelConfig,
    checkpoint: Checkpoint,
    overwrite: bool,
    sources: Mapping[str, Sequence[str]],
    *,
    evaluates: bool,
) -> _Run:
    """Check what can be checked before anything is read, and lock the run's folder.

    Args:
        config: The run file.
        checkpoint: What training starts from.
        overwrite: Whether an earlier result and another run's folder may be replaced.
        sources: The sources of data, by the field that names them; first those of training.
        evaluates: Whether there is something to evaluate on.
    """
    require_expressible(config)
    folder = RunFolder(config)
    arguments = training_arguments(config, folder.path, evaluates=evaluates)
    set_seed(config.seed)
    digests, known = folder.digests(), dict[str, Any]()
    data: list[dict[str, Any]] = []

    def prepare() -> None:
        found = {field: source_fingerprints(names, digests) for field, names in sources.items()}
        data.extend(next(iter(found.values())))
        known.update(stands_on(arguments, checkpoint.spec.model_fingerprint, found))
        folder.prepare(overwrite, known)

    in_first_process(prepare)
    return _Run(folder, arguments, data, known, digests, overwrite)


def _statistics(
    config: RetrieveConfig,
    checkpoint: Checkpoint,
    tokenization: Tokenization,
    examples: ExampleDataset | StreamedExamples,
) -> TermStatistics | None:
    """Return what the documents say of each term, None where nothing needs it."""
    needs_table = config.query_encoder == "inference-free" and checkpoint.query_term_weights is None
    if not needs_table and not config.lexical_weight:
        return None
    if not isinstance(examples, ExampleDataset):
        field = "query_encoder: inference-free" if needs_table else "lexical_weight"
        raise UsageError(
            f"{field}: term weights cannot be taken from a stream that is read only once; set streaming: false"
            f"{', or start from a model that has a table' if needs_table else ''}"
        )
    documents = dict.fromkeys(text for example in examples.examples for text in example.positives)
    terms = replace(checkpoint, spec=tokenization.spec)
    return term_statistics(documents, tokenization, checkpoint.vocabulary_size, terms.terms_of)


def _train(trainer: AdaptationTrainer | RetrievalTrainer, folder: RunFolder) -> None:
    last = folder.last_checkpoint()
    if last is not None:
        _logger.info("%s: going on from %s", folder.path, Path(last).name)
    trainer.go_on(last)
