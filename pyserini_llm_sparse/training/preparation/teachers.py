"""Teachers: models that score a query with documents, for distillation; run one at a time, without gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, UsageError, one_line
from pyserini_llm_sparse.training.config.fields import ScoreConfig


class Teacher(Protocol):
    """Scores pairs of texts."""

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float64]:
        """Return the score ``[pairs]`` of each query with the document in the same place."""


class CrossEncoderTeacher:
    """A sentence-transformers cross-encoder: query and document go through the model together.

    The score is the raw logit. The sigmoid that many checkpoints name for use would squeeze what tells good documents
    apart into the last digits.
    """

    def __init__(self, config: ScoreConfig) -> None:
        library = _sentence_transformers(config.kind)
        with _loading_errors(config.name):
            self._model = library.CrossEncoder(
                config.name, max_length=config.max_length, trust_remote_code=config.trust_remote_code
            )
        _require_one_score(self._model, config)
        self._batch_size = config.batch_size

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float64]:
        """Return the logit ``[pairs]`` of each pair; equal pairs are scored once."""
        import torch

        pairs, places = _distinct(zip(queries, documents, strict=True))
        logits = self._model.predict(
            pairs, batch_size=self._batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        return np.asarray(logits, dtype=np.float64)[places]


class SentenceTransformersTeacher:
    """A sentence-transformers bi-encoder with its own prompts and similarity; each text is embedded once."""

    def __init__(self, config: ScoreConfig) -> None:
        library = _sentence_transformers(config.kind)
        with _loading_errors(config.name):
            self._model = library.SentenceTransformer(config.name, trust_remote_code=config.trust_remote_code)
        if config.max_length is not None:
            limit = self._model.max_seq_length
            self._model.max_seq_length = min(config.max_length, limit or config.max_length)
        self._batch_size = config.batch_size

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float64]:
        """Return the similarity ``[pairs]`` of each pair."""
        (query_texts, query_places), (document_texts, document_places) = _distinct(queries), _distinct(documents)
        options: dict[str, Any] = {
            "batch_size": self._batch_size, "convert_to_tensor": True, "show_progress_bar": False,
        }  # fmt: skip
        query_vectors = self._model.encode_query(query_texts, **options).float()
        document_vectors = self._model.encode_document(document_texts, **options).float()
        similarity = self._model.similarity_pairwise(query_vectors[query_places], document_vectors[document_places])
        return np.asarray(similarity.cpu().numpy(), dtype=np.float64)


class SparseTeacher:
    """One of our encoders: the dot product of the weights, not of the impacts; each text is encoded once."""

    def __init__(self, config: ScoreConfig) -> None:
        from pyserini_llm_sparse.encoder import SparseEncoder

        options: dict[str, Any] = {"trust_remote_code": True} if config.trust_remote_code else {}
        self._encoder = SparseEncoder.load(config.name, **options)
        self._batch_size = config.batch_size
        spec, most = self._encoder.spec, config.max_length
        self._query_length = min(most or spec.query_max_length, spec.query_max_length)
        self._document_length = min(most or spec.document_max_length, spec.document_max_length)

    def scores(self, queries: Sequence[str], documents: Sequence[str]) -> NDArray[np.float64]:
        """Return the dot product ``[pairs]`` of each pair."""
        (query_texts, query_places), (document_texts, document_places) = _distinct(queries), _distinct(documents)
        query_vectors = self._encoder.encode_queries(
            query_texts, batch_size=self._batch_size, max_length=self._query_length
        )
        document_vectors = self._encoder.encode_documents(
            document_texts, batch_size=self._batch_size, max_length=self._document_length
        )
        left, right = query_vectors.matrix[query_places], document_vectors.matrix[document_places]
        return np.asarray(left.astype(np.float64).multiply(right).sum(axis=1), dtype=np.float64).reshape(-1)


_KINDS: dict[str, Callable[[ScoreConfig], Teacher]] = {
    "cross-encoder": CrossEncoderTeacher,
    "sentence-transformers": SentenceTransformersTeacher,
    "sparse": SparseTeacher,
}


def each_teacher(config: ScoreConfig) -> list[ScoreConfig]:
    """Return the settings for each teacher alone, with the kind that its name may say."""
    found = []
    for name in config.teacher:
        kind, equals, rest = name.partition("=")
        named = {"kind": kind, "teacher": (rest,)} if equals and kind in _KINDS else {"teacher": (name,)}
        found.append(config.model_copy(update=named))
    return found


def score_file(config: ScoreConfig) -> Path | None:
    """Return the file of scores that a single teacher is; None for a model."""
    path = Path(config.name)
    return path if path.is_file() else None


def load_teacher(config: ScoreConfig) -> Teacher:
    """Load the model of a single teacher.

    Raises:
        PrerequisiteError: sentence-transformers is not installed, and the kind needs it.
        ResourceError: There is no such model, or it cannot be read.
        DataError: It is a model of another kind.
    """
    return _KINDS[config.kind](config)


def _sentence_transformers(kind: str) -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        raise PrerequisiteError(
            f"kind: {kind}: sentence-transformers is not installed; pip install 'pyserini-llm-sparse[train]'"
        ) from error
    return sentence_transformers


@contextlib.contextmanager
def _loading_errors(teacher: str) -> Iterator[None]:
    """Turn what the libraries raise for a model that cannot be loaded into one line."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{teacher}: cannot load the teacher: {one_line(error)}; check the name") from error
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise DataError(
            f"{teacher}: cannot load the teacher: {one_line(error)}; choose a model of the kind that `kind` names"
        ) from error


def _require_one_score(model: Any, config: ScoreConfig) -> None:
    """Refuse a model that is no re-ranker: the library would give it a random head, and its scores would be noise.

    Newer re-rankers are a causal language model with a module behind it that reads a score off its logits.

    Raises:
        DataError: The checkpoint has no head, or one with several classes.
        UsageError: It cannot read texts as long as asked for.
    """
    architectures = [str(name) for name in model.config.architectures or ()]
    has_head = any(name.endswith("ForSequenceClassification") for name in architectures)
    if not has_head and len(list(model.children())) < 2 and not config.trust_remote_code:
        found = ", ".join(architectures) or "unknown"
        raise DataError(
            f"{config.name}: no cross-encoder: its architecture is {found}, without a head for a score; choose a "
            "re-ranker, or another kind"
        )
    if model.num_labels != 1:
        raise DataError(
            f"{config.name}: scores {model.num_labels} classes, not one relevance; choose a re-ranker of one score"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    if config.max_length is not None and limit is not None and config.max_length > limit:
        raise UsageError(f"max_length: {config.max_length}: {config.name} reads at most {limit} tokens; lower it")


_Item = TypeVar("_Item", bound=Hashable)


def _distinct(items: Iterable[_Item]) -> tuple[list[_Item], NDArray[np.int64]]:
    """Return each item once, in the order of appearance, and the place ``[items]`` of each among them."""
    places: dict[_Item, int] = {}
    found = [places.setdefault(item, len(places)) for item in items]
    return list(places), np.array(found, dtype=np.int64)
