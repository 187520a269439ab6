"""Patches of Pyserini's classes and maps: those that hold in commands and in programs alike."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from pyserini_llm_sparse.errors import ResourceError, one_line
from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.plugin import command_line
from pyserini_llm_sparse.plugin.command_line import ENCODER_CLASS, PyseriniDefault, one_line_errors
from pyserini_llm_sparse.plugin.drift import PyseriniChangedError, expect

OURS = "the plugin's encoders are csplade, csplade:PATH and csplade:HUB_ID: correct the name"
KEEP_ALL_TERMS = -1  # a minimum idf below that of a term that is in every document, which is 0


def patch_encode(module: ModuleType) -> None:
    """Put our classes into the maps from keyword to encoder class, first, since ``splade`` is a part of our keyword.

    The maps are changed in place: other modules of Pyserini hold the same objects.
    """
    documents = getattr(module, "document_encoder_class_map", None)
    queries = getattr(module, "query_encoder_class_map", None)
    if not isinstance(documents, dict) or "splade" not in documents:
        raise PyseriniChangedError("document_encoder_class_map is not the dict that it was")
    if not isinstance(queries, dict) or "auto" not in queries:
        raise PyseriniChangedError("query_encoder_class_map is not the dict that it was")
    _put_first(documents, _Later("CspladeDocumentEncoder"))
    _put_first(queries, _Later("CspladeForDenseSearch"))


def _put_first(keywords: dict[str, Any], encoder_class: Any) -> None:
    others = {keyword: value for keyword, value in keywords.items() if keyword != ENCODER_CLASS}
    keywords.clear()
    keywords.update({ENCODER_CLASS: encoder_class}, **others)


class _Later:
    """A class of `encoders` that is imported when it is called: most programs never need it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from pyserini_llm_sparse.plugin import encoders

        return getattr(encoders, self.name)(*arguments, **options)


def patch_impact_searcher(module: ModuleType) -> None:
    """Make `LuceneImpactSearcher` know our encoder names, check the index's spec, and encode batches as batches."""
    searcher = module.LuceneImpactSearcher
    construct, choose = searcher.__init__, searcher._init_query_encoder_from_str
    search_one, search_batch = searcher.search, searcher.batch_search
    expect(
        list(inspect.signature(construct).parameters)[:5]
        == ["self", "index_dir", "query_encoder", "min_idf", "encoder_type"],
        "LuceneImpactSearcher takes other arguments",
    )
    expect(callable(choose), "LuceneImpactSearcher._init_query_encoder_from_str is gone")
    expect(
        list(inspect.signature(search_one).parameters)[:2] == ["self", "q"],
        "LuceneImpactSearcher.search takes other arguments",
    )
    expect(
        list(inspect.signature(search_batch).parameters)[:2] == ["self", "queries"],
        "LuceneImpactSearcher.batch_search takes other arguments",
    )

    @wraps(construct)
    def __init__(  # noqa: N807
        self: Any,
        index_dir: str,
        query_encoder: Any,
        min_idf: int = PyseriniDefault(0),
        encoder_type: str = "pytorch",
        *arguments: Any,
        **options: Any,
    ) -> None:
        if encoder_type == "pytorch":
            query_encoder = _ours_or_same(query_encoder)
            if _is_our_encoder(query_encoder):
                with one_line_errors():
                    query_encoder.require_spec_of(index_dir)
            # An index with a spec is ours, and its queries may have been encoded beforehand.
            if _is_our_encoder(query_encoder) or (Path(index_dir) / SPEC_FILE).is_file():
                # Java stays in the folder that the process started in: it must not look for another index.
                index_dir = str(Path(index_dir).resolve())
                from pyserini_llm_sparse.indexing.lucene import MAXIMUM_QUERY_TERMS

                module.autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(MAXIMUM_QUERY_TERMS)
                if isinstance(min_idf, PyseriniDefault):
                    min_idf = KEEP_ALL_TERMS
        construct(self, index_dir, query_encoder, min_idf, encoder_type, *arguments, **options)

    @wraps(choose)
    def _init_query_encoder_from_str(query_encoder: str | None) -> Any:
        encoder = _ours_or_same(query_encoder)
        if _is_our_encoder(encoder):
            return encoder
        chosen = _chosen_by_pyserini(choose, query_encoder)
        if chosen is None and query_encoder is not None:
            with one_line_errors():
                raise ResourceError(
                    f"encoder {query_encoder!r}: neither Pyserini nor its plugin knows an encoder of this name; {OURS}"
                )
        return chosen

    @wraps(search_one)
    def search(self: Any, q: str, *arguments: Any, **options: Any) -> Any:
        if not _is_our_encoder(self.query_encoder):
            return search_one(self, q, *arguments, **options)
        with _encoded_and_alone(self.query_encoder, [q]):
            return search_one(self, q, *arguments, **options)

    @wraps(search_batch)
    def batch_search(self: Any, queries: Sequence[str], *arguments: Any, **options: Any) -> Any:
        if not _is_our_encoder(self.query_encoder):
            return search_batch(self, queries, *arguments, **options)
        with _encoded_and_alone(self.query_encoder, queries):
            return search_batch(self, queries, *arguments, **options)

    searcher.__init__ = __init__
    searcher._init_query_encoder_from_str = staticmethod(_init_query_encoder_from_str)
    searcher.search, searcher.batch_search = search, batch_search
    _mark_default_idf(searcher.from_prebuilt_index)


@contextmanager
def _encoded_and_alone(query_encoder: Any, queries: Sequence[str]) -> Iterator[None]:
    """Encode queries, in several threads at once if they come so; then let one thread at a time search them."""
    from pyserini_llm_sparse.indexing.lucene import ONE_AT_A_TIME

    with query_encoder.announced(queries), ONE_AT_A_TIME:
        yield


def _mark_default_idf(method: Any) -> None:
    """Make a default ``min_idf`` of 0 tell that it is a default; it stays equal to 0."""
    function = method.__func__
    defaults = [
        PyseriniDefault(parameter.default) if parameter.name == "min_idf" else parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    ]
    function.__defaults__ = tuple(defaults)


def _ours_or_same(query_encoder: Any) -> Any:
    """Our query encoder for one of our names; anything else as it is."""
    if not isinstance(query_encoder, str) or os.path.isfile(query_encoder):  # noqa: PTH113
        return query_encoder
    with one_line_errors():
        if not command_line.is_ours(query_encoder, command_line.chosen.get("encoder_class")):
            return query_encoder
    from pyserini_llm_sparse.plugin.encoders import CspladeQueryEncoder

    return CspladeQueryEncoder(
        query_encoder, device=command_line.chosen.get("device"), precision=command_line.chosen.get("precision")
    )


def _chosen_by_pyserini(choose: Callable[[str | None], Any], query_encoder: str | None) -> Any:
    """Return the encoder that Pyserini makes of a name; one that is neither a model nor ours is refused in one line."""
    try:
        return choose(query_encoder)
    except OSError as error:  # as transformers and huggingface_hub say that there is no such model
        if query_encoder is None or Path(query_encoder).exists():
            raise
        with one_line_errors():
            raise ResourceError(
                f"encoder {query_encoder!r}: no encoder of the plugin, no folder, and Pyserini finds no such model: "
                f"{one_line(error)}; {OURS}"
            ) from error


def _is_our_encoder(query_encoder: Any) -> bool:
    """Tell whether an object is our query encoder, without importing that where nothing else did."""
    return type(query_encoder).__module__.startswith("pyserini_llm_sparse.") and hasattr(query_encoder, "announced")
