"""Makes the embedded model: tokenizer, conversion of a sentence encoder, distillation, training, checkpoint.

    python examples/embedded_model/teacher.py --data DATA --output RUN --minutes 30
    python examples/embedded_model/train_default.py --data DATA --output RUN --healing-minutes 40 --minutes 30

The checkpoint is written to RUN/model, what training starts from to RUN/start; ``--resume`` continues a run that was
stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from batching import TrainingSet
from evaluation import (
    active_terms,
    bm25_matrix,
    development_collection,
    expansion_share,
    grouped,
    impact_matrix,
    ndcg_at_10,
    query_matrix,
    tokenized,
)
from expansion_targets import ExpansionTargets, fit_term_vectors
from healing import Embedded, heal
from initialisation import embedded_terms, fit_head, initial_model, query_weights
from objectives import Weights, own_term_weights, term_counts
from publishing import encoding_spec, publish
from teacher import Teacher, load_embeddings, teacher_folder
from tokenizer_training import inverse_document_frequency, is_stop_word, token_ids, train_tokenizer
from training_loop import Budget, Settings, Student, train
from training_text import Development, Pair, split
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger("training")
EXPANSION_SCALE = 4.0
LONGEST_TEXT = 1024  # tokens of a passage that statistics are taken from
CONVERSION_TEXTS = 128  # passages by which the converted projections are fitted


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, openstax/, oewn/ and so on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run; RUN/model is the checkpoint")
    parser.add_argument("--minutes", type=float, help="time for the retrieval phase; its schedule follows the clock")
    parser.add_argument("--steps", type=int, help="steps of the retrieval phase, if these end first")
    parser.add_argument("--healing-minutes", type=float, help="time for the distillation of the converted encoder")
    parser.add_argument("--healing-steps", type=int, help="the same, in steps of 32 passages and 32 queries")
    parser.add_argument("--healing-rate", type=float, default=3e-4, help="its highest learning rate")
    parser.add_argument("--evaluate-minutes", type=float, default=20.0, help="how often the development set is run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="continue from RUN/state.pt")
    parser.add_argument("--vocabulary", type=int, default=10000)
    parser.add_argument("--feed-forward", type=int, default=704)
    parser.add_argument("--batch", type=int, default=64, help="pairs, a multiple of 16")
    parser.add_argument("--longest", type=int, default=200, help="tokens of a document while training")
    parser.add_argument("--layer-rate", type=float, default=Settings.layer_rate, help="highest, of the layers")
    parser.add_argument("--embedding-rate", type=float, default=Settings.embedding_rate, help="of the embedding")
    parser.add_argument("--head-rate", type=float, default=Settings.head_rate, help="of the head")
    parser.add_argument("--expansion-terms", type=float, default=900, help="terms of a document with a target above 0")
    parser.add_argument("--expansion-scale", type=float, default=EXPANSION_SCALE, help="weight for a cosine of 1")
    parser.add_argument("--document-length", type=int, default=256, help="document_max_length of the checkpoint")
    parser.add_argument("--document-terms", type=int, default=256, help="document_top_k of the checkpoint")
    defaults = Weights()
    for name, value in vars(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}-weight", type=float, default=value, dest=f"weight_{name}")
    return parser.parse_args()


def prepare_tokenizer(
    folder: Path, pairs: list[Pair], teacher: Teacher, options: argparse.Namespace
) -> PreTrainedTokenizerFast:
    """Train the tokenizer, or take the one that an earlier start of this run has trained."""
    target = folder / "tokenizer"
    if not (target / "tokenizer.json").exists():
        texts = (text for pair in pairs for text in (pair.passage, pair.query))
        train_tokenizer(texts, teacher.tokenizer.get_vocab(), options.vocabulary, LONGEST_TEXT).save_pretrained(target)
    return PreTrainedTokenizerFast.from_pretrained(target)


def expansion_targets(
    queries: Sequence[np.ndarray],
    query_embeddings: np.ndarray,
    document_embeddings: np.ndarray,
    table: np.ndarray,
    alone: np.ndarray,
    terms: float,
    scale: float,
) -> ExpansionTargets:
    """Fit the term vectors to the embedded queries, and set the threshold that leaves so many terms on average."""
    vectors, explained = fit_term_vectors(queries, query_embeddings.astype(np.float32), table, alone)
    logger.info("bags of words explain %.3f of the variance of the query embeddings", explained)
    mean = document_embeddings.astype(np.float32).mean(0)
    targets = ExpansionTargets(torch.from_numpy(vectors * scale), torch.from_numpy(mean), 0.0)
    values = targets(torch.from_numpy(document_embeddings[:512].astype(np.float32)))
    targets.threshold = float(torch.quantile(values.flatten(), 1 - terms / len(table)))
    return targets


def healed_model(
    folder: Path,
    passages: Embedded,
    queries: Embedded,
    tokenizer: PreTrainedTokenizerFast,
    teacher: Teacher,
    some: list[np.ndarray],
    options: argparse.Namespace,
) -> tuple[LlamaForCausalLM, torch.nn.Linear]:
    """Convert the encoder and distil it, or take what an earlier start of this run has got there.

    Returns:
        The model, its head still 0, and the map that reads the encoder's embedding from its state at BOS.
    """
    model = initial_model(tokenizer, teacher, some, options.feed_forward, options.seed)
    file = folder / "healed.pt"
    if file.exists():
        state, reading = torch.load(file, weights_only=True)
        model.load_state_dict(state)
        reader = torch.nn.Linear(*reversed(reading["weight"].shape))
        reader.load_state_dict(reading)
        return model, reader
    budget = Budget(options.healing_minutes, options.healing_steps)
    reader = heal(model, passages, queries, budget, options.healing_rate, options.longest, options.seed)
    temporary = file.with_suffix(".tmp")
    torch.save((model.state_dict(), reader.state_dict()), temporary)
    temporary.replace(file)
    return model, reader


class DevelopmentTest:
    """Measures a student on the held-out queries, beside BM25 over the same terms."""

    def __init__(
        self,
        development: Development,
        tokenizer: PreTrainedTokenizerFast,
        idf: np.ndarray,
        stop_words: np.ndarray,
        longest: int,
    ) -> None:
        self.collection = development_collection(development)
        self.documents, self.queries = tokenized(tokenizer, self.collection)
        self.stop_words, self.longest = stop_words, longest
        self.ones = np.where(stop_words, 0, 1).astype(np.float32)
        self.bm25 = bm25_matrix(self.documents, len(idf), idf)

    def baseline(self) -> dict[str, float]:
        """Return nDCG@10 of BM25 over the model's terms."""
        return self._measure(self.ones, self.bm25)

    def __call__(self, student: Student) -> dict[str, float]:
        """Return nDCG@10 by group, and active terms of a document."""
        student.eval()
        excluded = torch.from_numpy(self.stop_words)
        impacts = impact_matrix(student.model, self.documents, self.longest, excluded, 100.0)
        student.train()
        result = self._measure(student.table().detach().numpy(), impacts)
        untrained = self._measure(student.initial_table.numpy(), impacts)
        result["untrained table"] = untrained["all"]
        result["active"] = active_terms(impacts)
        result["expanded"] = expansion_share(impacts, self.documents)
        return {name: round(value, 4) for name, value in result.items()}

    def _measure(self, table: np.ndarray, impacts: object) -> dict[str, float]:
        scores = (query_matrix(self.queries, table) @ impacts.T).toarray()  # type: ignore[attr-defined]
        return grouped(ndcg_at_10(self.collection, scores))


def main() -> None:
    """Run all phases."""
    options = arguments()
    if not options.minutes and not options.steps:
        raise SystemExit("train_default: no budget: give --minutes, --steps or both")
    if not options.healing_minutes and not options.healing_steps:
        raise SystemExit("train_default: no budget: give --healing-minutes, --healing-steps or both")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    pairs, development = split(options.data, options.seed)
    teacher = Teacher(teacher_folder())
    tokenizer = prepare_tokenizer(options.output, pairs, teacher, options)
    documents = token_ids(tokenizer, [pair.passage for pair in pairs], LONGEST_TEXT)
    queries = token_ids(tokenizer, [pair.query for pair in pairs], 64)
    idf = inverse_document_frequency(documents, len(tokenizer))
    stop_words = is_stop_word(tokenizer)
    query_embeddings, document_embeddings, present = load_embeddings(options.output, len(pairs))
    rows = np.flatnonzero(present)
    logger.info("%d pairs, %d of them embedded by the teacher", len(pairs), len(rows))
    if len(rows) < options.batch:
        raise SystemExit("train_default: too few embedded pairs: run teacher.py with the same --output first")

    table = query_weights(idf, stop_words)
    passages = Embedded([documents[row] for row in rows], document_embeddings[rows])
    asked = Embedded([queries[row] for row in rows], query_embeddings[rows])
    targets = expansion_targets(
        asked.texts,
        asked.embeddings,
        passages.embeddings,
        table.numpy(),
        embedded_terms(teacher, tokenizer).numpy(),
        options.expansion_terms,
        options.expansion_scale,
    )
    some = [ids[: options.longest - 1] for ids in passages.texts[:CONVERSION_TEXTS]]
    model, reader = healed_model(options.output, passages, asked, tokenizer, teacher, some, options)
    average_length = float(np.mean([min(len(ids), options.longest - 1) for ids in documents]))
    own_weights = own_term_weights(term_counts(some, len(table)), table, average_length)
    fit_head(model, table, some, own_weights, targets, reader)
    spec = encoding_spec(stop_words, options.document_length, options.document_terms)
    publish(options.output / "start", model, tokenizer, spec, table, some)
    student = Student(model, table)
    test = DevelopmentTest(development, tokenizer, idf, stop_words, options.document_length)
    logger.info("development, BM25 over the same terms: %s", test.baseline())

    weights = Weights(**{name: getattr(options, f"weight_{name}") for name in vars(Weights())})
    settings = Settings(
        batch=options.batch,
        longest=options.longest,
        layer_rate=options.layer_rate,
        embedding_rate=options.embedding_rate,
        head_rate=options.head_rate,
        seed=options.seed,
        weights=weights,
    )
    train(
        student,
        TrainingSet(pairs, queries, documents, query_embeddings, document_embeddings, rows, targets),
        average_length,
        settings,
        Budget(options.minutes, options.steps),
        options.output,
        test,
        options.evaluate_minutes,
        options.resume,
    )
    student.eval()
    result = test(student)
    logger.info("development at the end: %s", result)
    (options.output / "development.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    better = student.table() if result["all"] > result["untrained table"] else student.initial_table
    publish(options.output / "model", model, tokenizer, spec, better, some)


if __name__ == "__main__":
    main()
