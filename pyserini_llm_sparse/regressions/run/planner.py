"""The Pyserini commands that each kind of system needs on a collection."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.recipe.systems import NAME, TRAINED, Bm25, Csplade, Dense, Fusion, Run, Splade
from pyserini_llm_sparse.regressions.run.collection import DOCUMENTS, QRELS, TOPICS
from pyserini_llm_sparse.regressions.run.models import dense_digest, located, sparse_digest
from pyserini_llm_sparse.regressions.run.steps import OWN_FOLDER, Step
from pyserini_llm_sparse.version import __version__

# In the folders of the steps that make them.
RUN, INDEX, JSON, FAISS, MODEL = "run.txt", "lucene", "json", "faiss", "model"
MEASURED, EXPLAINED = "measure.json", "explanations.jsonl"
VECTORS, SEARCH, MEASURE, EXPLAIN = "vectors", "search", "measure", "explain"  # folders of steps
DATA = "{data}"  # in a command that trains: the folder of the collections
_QUERIES_AT_ONCE = "64"  # in a dense search
_INDEX_COMMAND = ("pyserini.index.lucene", "--generator", "DefaultLuceneDocumentGenerator")
_ROOM = "pyserini_llm_sparse.regressions.run"
_DENSE_COMMAND = f"{_ROOM}.dense_command"

Contents = Mapping[str, Callable[[], str]]


@dataclass(frozen=True)
class _Index:
    """Where a system's index is.

    Attributes:
        place: Path, or Pyserini's name of it.
        steps: Those that make it, none for one that is there already.
    """

    place: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class _Searched:
    """How a system is searched, for the steps that look closer.

    Attributes:
        kind: One of `measuring.KINDS`.
        index: Where.
        options: Of the measurement.
        contents: What the outcome depends on besides.
        explains: Options of the command that explains its scores; none if they have no terms.
    """

    kind: str
    index: _Index
    options: tuple[str, ...]
    contents: Contents | None = None
    explains: tuple[str, ...] = ()


class Planner:
    """Plans the systems of one collection; what several of them need is one step."""

    def __init__(
        self, recipe: Recipe, prepared: Step, data: Path, work: Path, threads: int, trained: Mapping[str, Step],
        shared: Planner | None = None,
    ) -> None:  # fmt: skip
        """Plan for a collection.

        Args:
            recipe: The recipe.
            prepared: The step that lays the collection out.
            data: Folder that relative paths are in.
            work: Folder for all of its steps.
            threads: Of indexing and searching.
            trained: Steps that train models, by name.
            shared: The planner of a collection with the same documents, whose indexes are searched.
        """
        self._recipe = recipe
        self._prepared = prepared
        self._data = data
        self._work = work
        self._threads = str(threads)
        self._trained = trained
        self._indexer: Planner = self if shared is None else shared._indexer
        self._made: dict[tuple[str, ...], Step] = {}
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._searched: dict[str, _Searched] = {}

    @property
    def documents(self) -> Step:
        """The step that lays the documents out."""
        return self._indexer._prepared

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return the steps of a system by its name; the last one makes its run file."""
        if name not in self._steps:
            system = self._recipe.systems[name]
            if isinstance(system, Bm25):
                steps = self._bm25(name, system)
            elif isinstance(system, Csplade):
                steps = self._csplade(name, system)
            elif isinstance(system, Splade):
                steps = self._splade(name, system)
            elif isinstance(system, Dense):
                steps = self._dense(name, system)
            elif isinstance(system, Run):
                steps = self._run(name, system)
            else:
                steps = self._fusion(name, system)
            self._steps[name] = tuple(dict.fromkeys((self.documents, self._prepared, *steps)))
        return self._steps[name]

    def details(self, name: str) -> tuple[Step, ...]:
        """Return the steps that find out more about a system: its costs, and what explains its scores."""
        search = self.steps(name)[-1]
        if (searched := self._searched.get(name)) is None:
            return ()
        index = searched.index
        measure = self._step(
            name, MEASURE, "measure single queries",
            f"{_ROOM}.measuring", "--kind", searched.kind, "--index", index.place, "--topics", self._topics,
            "--output", f"{OWN_FOLDER}/{MEASURED}", *searched.options, after=index.steps, contents=searched.contents,
        )  # fmt: skip
        if not searched.explains or not index.steps:
            return (measure,)
        explain = self._step(
            name, EXPLAIN, "explain the scores",
            f"{_ROOM}.explaining", *searched.explains, "--index", index.place, "--topics", self._topics,
            "--qrels", str(self._prepared.folder / QRELS), "--run", str(search.folder / RUN),
            "--output", f"{OWN_FOLDER}/{EXPLAINED}", after=(*index.steps, search), contents=searched.contents,
        )  # fmt: skip
        return measure, explain

    def _bm25(self, name: str, system: Bm25) -> tuple[Step, ...]:
        # Feedback reads the terms of the documents that were found.
        stored = ["--storeDocvectors"] if system.rm3 else []
        index = self._indexer._texts_index(name, stored) if system.prebuilt is None else self._prebuilt(system.prebuilt)
        options = ("--k1", str(system.k1), "--b", str(system.b), *(["--rm3"] if system.rm3 else []))
        self._searched[name] = _Searched("bm25", index, options, explains=("--bm25", *options))
        return *index.steps, self._lucene_search(name, index, "--bm25", *options)

    def _csplade(self, name: str, system: Csplade) -> tuple[Step, ...]:
        named = self._with_trained(system.encoder)
        encoder = named + (f",precision={system.precision}" if system.precision else "")
        queries = encoder + (f",query_encoder={system.query_encoder}" if system.query_encoder else "")
        contents = None if named != system.encoder else {"model": partial(sparse_digest, queries)}
        # Documents do not depend on how queries are encoded: systems that differ in that alone share the index.
        options = ["--encoder", encoder, "--batch-size", str(system.batch_size)]
        index = self._sparse_index(name, system, options, contents)
        self._searched[name] = _Searched("impact", index, ("--encoder", queries), contents, ("--encoder", queries))
        return *index.steps, self._lucene_search(name, index, "--impact", "--encoder", queries, contents=contents)

    def _splade(self, name: str, system: Splade) -> tuple[Step, ...]:
        model = self._with_trained(system.model)
        contents = None if model != system.model else {model: partial(dense_digest, model)}
        options = ["--encoder", model, "--encoder-class", "splade", "--max-length", str(system.max_length)]
        options += ["--batch-size", str(system.batch_size)]
        index = self._sparse_index(name, system, options, contents)
        self._searched[name] = _Searched("impact", index, ("--encoder", model), contents)
        return *index.steps, self._lucene_search(name, index, "--impact", "--encoder", model, contents=contents)

    def _dense(self, name: str, system: Dense) -> tuple[Step, ...]:
        model = located(system.model)
        contents = {model: partial(dense_digest, model)}
        how = ["--pooling", system.pooling, *(["--l2-norm"] if system.normalise else [])]
        encoder = ["--encoder", model, "--encoder-class", system.encoder_class]
        encoder += how if system.encoder_class == "auto" else []
        length = ["--max-length", str(system.max_length)]
        prefix = _option("--query-prefix", system.query_prefix)
        if system.prebuilt is None:
            index = self._indexer._dense_index(name, system, [*encoder, *length], contents)
        else:
            index = self._prebuilt(system.prebuilt)
        in_lucene = system.index == "lucene-hnsw"
        if system.encoder_class == "auto":
            kind = "lucene-hnsw" if in_lucene else "faiss"
            self._searched[name] = _Searched(kind, index, ("--encoder", model, *how, *prefix), contents)
        common = ["--index", index.place, "--topics", self._topics, "--output", f"{OWN_FOLDER}/{RUN}",
                  "--hits", str(self._recipe.hits)]  # fmt: skip
        if in_lucene:
            command = [_DENSE_COMMAND, "search", *common, "--encoder", model, *how, *length, *prefix]
        else:
            command = ["pyserini.search.faiss", *common, "--threads", self._threads, "--batch-size", _QUERIES_AT_ONCE]
            command += [*encoder, *length, *prefix, *self._removal]
        return *index.steps, self._step(name, SEARCH, "search", *command, after=index.steps[-1:], contents=contents)

    def _run(self, name: str, system: Run) -> tuple[Step, ...]:
        path = self._data / system.path.replace("{collection}", self._work.name)
        copied = Step(
            f"{self._work.name}: {name}: take the ranking", self._work / name / SEARCH, work=partial(_copy_run, path),
            contents={"run": partial(_run_digest, path)},
        )  # fmt: skip
        return (copied,)

    def _fusion(self, name: str, system: Fusion) -> tuple[Step, ...]:
        needed = [self.steps(one) for one in system.of]
        runs = [steps[-1] for steps in needed]
        options = {
            "rrf": ["--method", "rrf", "--rrf.k", str(system.rrf_k)],
            "interpolation": ["--method", "interpolation", "--alpha", str(system.alpha)],
            "average": ["--method", "average"],
        }[system.method]
        hits = str(self._recipe.hits)
        fused = self._step(
            name, SEARCH, "fuse the rankings",
            "pyserini.fusion", *options, "--runs", *(str(step.folder / RUN) for step in runs),
            "--output", f"{OWN_FOLDER}/{RUN}", "--runtag", name, "--depth", hits, "--k", hits, after=tuple(runs),
        )  # fmt: skip
        return (*(step for steps in needed for step in steps), fused)

    def _texts_index(self, name: str, stored: Sequence[str]) -> _Index:
        index = self._step(
            name, "index", "index the texts",
            *_INDEX_COMMAND, "--collection", "JsonCollection", "--input", self._documents,
            "--index", f"{OWN_FOLDER}/{INDEX}", "--threads", self._threads, *stored,
        )  # fmt: skip
        return _Index(str(index.folder / INDEX), (index,))

    def _sparse_index(
        self, name: str, system: Csplade | Splade, options: Sequence[str], contents: Contents | None
    ) -> _Index:
        """Return the index of the vectors that an encoder makes of the documents."""
        if system.prebuilt is not None:
            return self._prebuilt(system.prebuilt)
        if self._indexer is not self:
            return self._indexer._sparse_index(name, system, options, contents)
        trained = self._training_of(system)
        vectors = self._step(
            name, VECTORS, "encode the documents",
            "pyserini.encode", "input", "--corpus", self._documents, "output", "--embeddings",
            f"{OWN_FOLDER}/{JSON}", "encoder", *options, after=trained, contents=contents,
        )  # fmt: skip
        index = self._step(
            name, "index", "index the vectors",
            *_INDEX_COMMAND, "--collection", "JsonVectorCollection", "--input", str(vectors.folder / JSON),
            "--index", f"{OWN_FOLDER}/{INDEX}", "--threads", self._threads, "--impact", "--pretokenized",
            after=(vectors,),
        )  # fmt: skip
        return _Index(str(index.folder / INDEX), (*trained, vectors, index))

    def _dense_index(self, name: str, system: Dense, options: Sequence[str], contents: Contents) -> _Index:
        vectors = self._step(
            name, VECTORS, "encode the documents",
            "pyserini.encode", "input", "--corpus", self._documents, "output", "--embeddings",
            f"{OWN_FOLDER}/{FAISS}", "--to-faiss", "encoder", *options, "--dimension", str(system.dimension),
            "--batch-size", str(system.batch_size), *_option("--prefix", system.document_prefix), contents=contents,
        )  # fmt: skip
        flat = str(vectors.folder / FAISS)
        if system.index == "flat":
            return _Index(flat, (vectors,))
        if system.index == "hnsw":
            built = FAISS
            command = ["pyserini.index.faiss", "--input", flat, "--output", f"{OWN_FOLDER}/{FAISS}"]
            command += ["--dim", str(system.dimension), "--hnsw", "--threads", self._threads]
        else:
            built = INDEX
            command = [_DENSE_COMMAND, "index", "--vectors", flat, "--index", f"{OWN_FOLDER}/{INDEX}"]
            command += ["--threads", self._threads]
        index = self._step(name, "index", "index the vectors", *command, after=(vectors,))
        return _Index(str(index.folder / built), (vectors, index))

    def _prebuilt(self, name: str) -> _Index:
        """Return an index that is there, in the folder of the collections or by the name that Pyserini has for it."""
        name = name.replace("{collection}", self._indexer._work.name)
        return _Index(str(self._data / name) if (self._data / name).is_dir() else name)

    def _lucene_search(self, name: str, index: _Index, *options: str, contents: Contents | None = None) -> Step:
        return self._step(
            name, SEARCH, "search",
            "pyserini.search.lucene", "--index", index.place,
            "--topics", self._topics, "--output", f"{OWN_FOLDER}/{RUN}",
            "--hits", str(self._recipe.hits), "--threads", self._threads, *options, *self._removal,
            after=index.steps[-1:], contents=contents,
        )  # fmt: skip

    def _training_of(self, system: Csplade | Splade) -> tuple[Step, ...]:
        """Return the step that trains a system's model, if the recipe has it."""
        name = system.encoder if isinstance(system, Csplade) else system.model
        return tuple(self._trained[found[1]] for found in re.finditer(f"{TRAINED}({NAME})", name))

    def _with_trained(self, name: str) -> str:
        """Return a model's name with the folder of a model that the recipe trains in its place."""
        return re.sub(f"{TRAINED}({NAME})", lambda found: str(self._trained[found[1]].folder / MODEL), name)

    @property
    def _removal(self) -> list[str]:
        return ["--remove-query"] if self._recipe.collections[self._work.name].remove_query else []

    @property
    def _topics(self) -> str:
        return str(self._prepared.folder / TOPICS)

    @property
    def _documents(self) -> str:
        return str((self._prepared.folder / DOCUMENTS).parent)

    def _step(
        self, system: str, folder: str, what: str, *command: str, after: tuple[Step, ...] = (),
        contents: Contents | None = None,
    ) -> Step:  # fmt: skip
        """Return a step; an earlier one with the same command is taken in its place."""
        step = Step(
            f"{self._work.name}: {system}: {what}", self._work / system / folder, command, (self._prepared, *after),
            {"versions": versions, **(contents or {})},
        )  # fmt: skip
        return self._made.setdefault(command, step)


def _option(name: str, value: str | None) -> list[str]:
    return [] if value is None else [name, value]


def _copy_run(path: Path, folder: Path) -> dict[str, Any]:
    with disk_errors(folder):
        shutil.copyfile(path, folder / RUN)
    return {}


def _run_digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ResourceError(f"{path}: no such run: {error.strerror}; put the ranking there") from error


def versions() -> str:
    """Return the versions of what makes the output of the commands."""
    return f"pyserini {metadata.version('pyserini')}, pyserini-llm-sparse {__version__}"
