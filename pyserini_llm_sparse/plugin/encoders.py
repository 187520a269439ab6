"""Pyserini's encoder interfaces over `SparseEncoder`: impacts as Python ints, empty fields as empty text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pyserini.encode import DocumentEncoder, QueryEncoder

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.files.entries import json_object
from pyserini_llm_sparse.files.fields import TEXTS
from pyserini_llm_sparse.files.lines import read_lines
from pyserini_llm_sparse.files.records import RecordProblem
from pyserini_llm_sparse.files.walk import files_below
from pyserini_llm_sparse.indexing.lucene import require_index_spec
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.terms import ESCAPE
from pyserini_llm_sparse.plugin.command_line import PyseriniDefault, one_line_errors

_logger = logging.getLogger(__name__)

# Stands for a query without terms in a file of encoded queries, where an empty line makes Anserini's readers fail.
# No vocabulary yields it (see `terms.escape`), so it matches nothing.
EMPTY_QUERY = f"{ESCAPE}empty;"


def warn_of_left_out_fields(corpus: str, read: Sequence[str], encoded: Sequence[str]) -> None:
    """Warn of fields of a corpus that ``pyserini.encode`` does not read, or reads and does not encode.

    Args:
        corpus: The file or folder; its first record is looked at.
        read: ``input --fields``.
        encoded: ``encoder --fields``.
    """
    if missing := [name for name in read if name not in encoded]:
        _logger.warning(
            "pyserini.encode: %s is read and not encoded; give `encoder --fields %s` as well",
            " and ".join(missing), " ".join(read),
        )  # fmt: skip
        return
    record = _first_record(Path(corpus))
    whole = " ".join(value for name in (*read, "contents") if isinstance(value := record.get(name), str))
    left = [name for name in record if name in TEXTS and name not in read and isinstance(record[name], str)]
    if left := [name for name in left if record[name].strip() not in whole]:
        fields = " ".join([*(name for name in left if name == "title"), *read, *(n for n in left if n != "title")])
        _logger.warning(
            "%s: %s is not encoded: pyserini.encode reads the fields that it is given; give `input --fields %s` and "
            "`encoder --fields %s`", corpus, " and ".join(left), fields, fields,
        )  # fmt: skip


def _first_record(corpus: Path) -> dict[str, Any]:
    """Return the first record of a corpus; empty if there is none, which Pyserini says in its own way."""
    files = [corpus] if corpus.is_file() else files_below(corpus)
    for path in files[:1]:
        for _, line in read_lines(path):
            try:
                return json_object(line or b"")
            except RecordProblem:
                return {}
    return {}


class CspladeDocumentEncoder(DocumentEncoder):
    """Encodes documents for ``pyserini.encode``.

    Attributes:
        encoder: The encoder behind it.
        fields: Names of the fields that make a document's text, in order; None for title, text, then any others.
    """

    def __init__(
        self,
        model_name: str,
        device: str | None = None,
        *,
        dtype: str | None = None,
        precision: str | None = None,
        max_length: int | None = None,
        fields: Sequence[str] | None = None,
        prefix: str | None = None,
        pooling: str | None = None,
        l2_norm: bool = False,
        multimodal: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model_name: An encoder name: ``csplade``, ``csplade:PATH``, a directory with an encoding spec.
            device: Where the model runs; None to choose.
            dtype: torch's number format; None to choose.
            precision: Of an ONNX export, instead; None for torch.
            max_length: Maximum number of tokens of a document; None for the spec's.
            fields: The fields to encode, in order.
            prefix: Text put before a document instead of the spec's.
            pooling: Of dense encoders: Pyserini passes it for some model names. Has no meaning here.
            l2_norm: The same.
            multimodal: The same.
        """
        overrides: dict[str, Any] = {"precision": precision}
        if prefix is not None:
            overrides["document_prefix"] = prefix
        if max_length is not None and not isinstance(max_length, PyseriniDefault):
            overrides["document_max_length"] = max_length
        with one_line_errors():
            self.encoder = SparseEncoder.load(model_name, device=device, dtype=dtype, **overrides)
        self.fields = fields

    def encode(
        self,
        texts: Sequence[str | None] | str | None = None,
        titles: Sequence[str | None] | None = None,
        fp16: bool = False,
        max_length: int | None = None,
        add_sep: bool = False,
        **fields: Sequence[str | None],
    ) -> list[dict[str, int]]:
        """Encode a batch of documents.

        Args:
            texts: The field ``text`` of each document; None is empty text.
            titles: The field ``title``.
            fp16: Of upstream's interface; precision is chosen when the model is loaded.
            max_length: Maximum number of tokens of a document; None or Pyserini's default for the spec's.
            add_sep: Of upstream's interface; without meaning here.
            **fields: Further fields, with an ``s`` after their name.

        Returns:
            One dict from term to impact a document; empty where nothing was activated.
        """
        if isinstance(texts, str):
            texts = [texts]
        given = {"title": titles, "text": texts} | {name.removesuffix("s"): values for name, values in fields.items()}
        wanted = [values for name in self.fields or given if (values := given.get(name)) is not None]
        documents = [" ".join(text for text in document if text) for document in zip(*wanted, strict=True)]
        length = None if max_length is None or isinstance(max_length, PyseriniDefault) else max_length
        with one_line_errors():
            # The caller's batch is the batch, as with Pyserini's own encoders.
            return self.encoder.document_impacts(documents, batch_size=max(1, len(documents)), max_length=length)


class CspladeQueryEncoder(QueryEncoder):
    """Encodes queries for Pyserini's impact searcher and ``pyserini.encode.query``; safe to use from many threads.

    Attributes:
        encoder: The encoder behind it.
        name: The encoder name it was made from.
        overridden: Fields of the spec that the name or the caller sets, which may differ from an index's.
    """

    def __init__(
        self,
        encoder_dir: str,
        device: str | None = None,
        *,
        prefix: str | None = None,
        precision: str | None = None,
        for_file: bool = False,
    ) -> None:
        """Load a model.

        Args:
            encoder_dir: An encoder name; called a directory by Pyserini.
            device: Where the model runs; None to choose.
            prefix: Text put before a query instead of the spec's.
            precision: Of an ONNX export that computes the vectors; None for torch.
            for_file: Whether vectors go into a file of encoded queries, where none may be empty.
        """
        super().__init__()
        overrides: dict[str, Any] = {} if prefix is None else {"query_prefix": prefix}
        with one_line_errors():
            self.encoder = SparseEncoder.load(encoder_dir, device=device, precision=precision, **overrides)
            self.overridden = frozenset(parse_encoder_name(encoder_dir).overrides) | frozenset(overrides)
        self.name = encoder_dir
        self.has_model = True
        self._for_file = for_file
        self._announced = threading.local()

    def encode(self, query: str, max_length: int | None = None) -> dict[str, int]:
        """Return the impacts of a query's terms; ``max_length`` of None or Pyserini's default means the spec's."""
        length = None if max_length is None or isinstance(max_length, PyseriniDefault) else max_length
        ready: dict[str, dict[str, int]] = getattr(self._announced, "vectors", {})
        if length is None and query in ready:
            vector = ready[query]
        else:
            with one_line_errors():
                vector = self.encoder.query_impacts([query or ""], max_length=length)[0]
        return vector or ({EMPTY_QUERY: 1} if self._for_file else {})

    @contextmanager
    def announced(self, queries: Sequence[str]) -> Iterator[None]:
        """Within this context, `encode` answers for these queries from vectors made in batches beforehand."""
        distinct = list(dict.fromkeys(queries))
        with one_line_errors():
            vectors = self.encoder.query_impacts([query or "" for query in distinct])
        self._announced.vectors = dict(zip(distinct, vectors, strict=True))
        try:
            yield
        finally:
            del self._announced.vectors

    def require_spec_of(self, index: str | Path) -> None:
        """Refuse an index that was made under another spec; see `index_spec.require_index_spec`."""
        require_index_spec(index, self.encoder.spec, self.name, self.overridden)


class CspladeForDenseSearch:
    """Stands in Pyserini's map of dense query encoders to say where sparse ones belong."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        refuse_dense_search()


def refuse_dense_search() -> NoReturn:
    """Explain that our vectors are sparse.

    Raises:
        UsageError: Always; in a command it ends as one line.
    """
    with one_line_errors():
        raise UsageError(
            "pyserini.search.faiss: csplade makes sparse vectors, and Faiss searches dense ones; "
            "use `python -m pyserini.search.lucene --impact --encoder csplade` with a Lucene index"
        )
    raise AssertionError  # for the type checker: the context never swallows
