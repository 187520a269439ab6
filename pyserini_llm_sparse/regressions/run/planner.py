"""The Pyserini commands that each kind of system needs on a collection."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import ResourceError
from pyserini_llm_sparse.files.atomic import disk_errors
from pyserini_llm_sparse.files.digests import file_sha256
from pyserini_llm_sparse.files.lines import open_bytes
from pyserini_llm_sparse.files.trec import read_run
from pyserini_llm_sparse.regressions.recipe.fields import Recipe
from pyserini_llm_sparse.regressions.recipe.systems import Bm25, Csplade, Dense, Fusion, Run, Splade
from pyserini_llm_sparse.regressions.run.collection_steps import CollectionSteps, Contents
from pyserini_llm_sparse.regressions.run.indexes import DENSE_COMMAND, Index, Indexes
from pyserini_llm_sparse.regressions.run.layout import EXPLAIN, EXPLAINED, MEASURE, MEASURED, RUN, SEARCH
from pyserini_llm_sparse.regressions.run.models import TrainedModels, dense_digest, located, sparse_digest
from pyserini_llm_sparse.regressions.run.steps import OWN_FOLDER, Step

MEASURE_COMMAND = "pyserini_llm_sparse.regressions.run.measuring"
EXPLAIN_COMMAND = "pyserini_llm_sparse.regressions.run.explaining"
_QUERIES_AT_ONCE = "64"  # in a dense search


@dataclass(frozen=True)
class _Searched:
    """The search of a system, for the steps that look closer.

    Attributes:
        kind: One of `measuring.KINDS`.
        index: Where.
        options: Of the measurement.
        contents: What the outcome depends on besides.
        explains: Options of the command that explains its scores; none if they have no terms.
    """

    kind: str
    index: Index
    options: tuple[str, ...]
    contents: Contents | None = None
    explains: tuple[str, ...] = ()


class Planner:
    """Plans the systems of one collection; what several of them need is one step."""

    def __init__(
        self, recipe: Recipe, own: CollectionSteps, indexes: Indexes, data: Path, trained: TrainedModels
    ) -> None:
        """Plan for a collection.

        Args:
            recipe: The recipe.
            own: The collection's steps.
            indexes: Those of its documents.
            data: Folder that relative paths are in.
            trained: The models that the recipe trains.
        """
        self._recipe, self._own, self._indexes, self._data, self._trained = recipe, own, indexes, data, trained
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._searched: dict[str, _Searched] = {}

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
            self._steps[name] = tuple(dict.fromkeys((self._indexes.documents, self._own.prepared, *steps)))
        return self._steps[name]

    def details(self, name: str) -> tuple[Step, ...]:
        """Return the steps that find out more about a system: its costs, and what explains its scores."""
        search = self.steps(name)[-1]
        if (searched := self._searched.get(name)) is None:
            return ()
        index = searched.index
        measure = self._own.step(
            name, MEASURE, "measure single queries",
            MEASURE_COMMAND, "--kind", searched.kind, "--index", index.place, "--topics", self._own.topics,
            "--output", f"{OWN_FOLDER}/{MEASURED}", *searched.options, after=index.steps, contents=searched.contents,
        )  # fmt: skip
        if not searched.explains or not index.steps:
            return (measure,)
        explain = self._own.step(
            name, EXPLAIN, "explain the scores",
            EXPLAIN_COMMAND, *searched.explains, "--index", index.place, "--topics", self._own.topics,
            "--qrels", self._own.qrels, "--run", str(search.folder / RUN),
            "--output", f"{OWN_FOLDER}/{EXPLAINED}", after=(*index.steps, search), contents=searched.contents,
        )  # fmt: skip
        return measure, explain

    def _bm25(self, name: str, system: Bm25) -> tuple[Step, ...]:
        # Feedback reads the terms of the documents that were found.
        stored = ["--storeDocvectors"] if system.rm3 else []
        if system.prebuilt is None:
            index = self._indexes.of_texts(name, stored)
        else:
            index = self._indexes.prebuilt(system.prebuilt)
        options = ("--k1", str(system.k1), "--b", str(system.b), *(["--rm3"] if system.rm3 else []))
        self._searched[name] = _Searched("bm25", index, options, explains=("--bm25", *options))
        return *index.steps, self._lucene_search(name, index, "--bm25", *options)

    def _csplade(self, name: str, system: Csplade) -> tuple[Step, ...]:
        named = self._trained.located(system.encoder)
        encoder = named + (f",precision={system.precision}" if system.precision else "")
        queries = encoder + (f",query_encoder={system.query_encoder}" if system.query_encoder else "")
        contents = None if named != system.encoder else {"model": partial(sparse_digest, queries)}
        # Documents do not depend on how queries are encoded: systems that differ in that alone share the index.
        options = ["--encoder", encoder, "--batch-size", str(system.batch_size)]
        index = self._indexes.sparse(name, system, options, contents)
        self._searched[name] = _Searched("impact", index, ("--encoder", queries), contents, ("--encoder", queries))
        return *index.steps, self._lucene_search(name, index, "--impact", "--encoder", queries, contents=contents)

    def _splade(self, name: str, system: Splade) -> tuple[Step, ...]:
        model = self._trained.located(system.model)
        contents = None if model != system.model else {model: partial(dense_digest, model)}
        options = ["--encoder", model, "--encoder-class", "splade", "--max-length", str(system.max_length)]
        options += ["--batch-size", str(system.batch_size)]
        index = self._indexes.sparse(name, system, options, contents)
        self._searched[name] = _Searched("impact", index, ("--encoder", model), contents)
        return *index.steps, self._lucene_search(name, index, "--impact", "--encoder", model, contents=contents)

    def _dense(self, name: str, system: Dense) -> tuple[Step, ...]:
        model = located(system.model)
        contents = {model: partial(dense_digest, model)}
        how = ["--pooling", system.pooling, *(["--l2-norm"] if system.normalise else [])]
        encoder = ["--encoder", model, "--encoder-class", system.encoder_class]
        encoder += how if system.encoder_class == "auto" else []
        length = ["--max-length", str(system.max_length)]
        prefix = [] if system.query_prefix is None else ["--query-prefix", system.query_prefix]
        index = self._indexes.dense(name, system, [*encoder, *length], contents)
        in_lucene = system.index == "lucene-hnsw"
        if system.encoder_class == "auto":
            kind = "lucene-hnsw" if in_lucene else "faiss"
            self._searched[name] = _Searched(kind, index, ("--encoder", model, *how, *prefix), contents)
        common = ["--index", index.place, "--topics", self._own.topics, "--output", f"{OWN_FOLDER}/{RUN}",
                  "--hits", str(self._recipe.hits)]  # fmt: skip
        if in_lucene:
            command = [DENSE_COMMAND, "search", *common, "--encoder", model, *how, *length, *prefix]
        else:
            command = ["pyserini.search.faiss", *common, "--threads", self._own.threads]
            command += ["--batch-size", _QUERIES_AT_ONCE, *encoder, *length, *prefix, *self._removal]
        return *index.steps, self._own.step(name, SEARCH, "search", *command, after=index.steps[-1:], contents=contents)

    def _run(self, name: str, system: Run) -> tuple[Step, ...]:
        path = self._data / system.path.replace("{collection}", self._own.name)
        copied = Step(
            f"{self._own.name}: {name}: take the ranking", self._own.work / name / SEARCH,
            work=partial(_copy_run, path), contents={"run": partial(_run_digest, path)},
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
        fused = self._own.step(
            name, SEARCH, "fuse the rankings",
            "pyserini.fusion", *options, "--runs", *(str(step.folder / RUN) for step in runs),
            "--output", f"{OWN_FOLDER}/{RUN}", "--runtag", name, "--depth", hits, "--k", hits, after=tuple(runs),
        )  # fmt: skip
        return (*(step for steps in needed for step in steps), fused)

    def _lucene_search(self, name: str, index: Index, *options: str, contents: Contents | None = None) -> Step:
        return self._own.step(
            name, SEARCH, "search",
            "pyserini.search.lucene", "--index", index.place,
            "--topics", self._own.topics, "--output", f"{OWN_FOLDER}/{RUN}",
            "--hits", str(self._recipe.hits), "--threads", self._own.threads, *options, *self._removal,
            after=index.steps[-1:], contents=contents,
        )  # fmt: skip

    @property
    def _removal(self) -> list[str]:
        return ["--remove-query"] if self._recipe.collections[self._own.name].remove_query else []


def _copy_run(path: Path, folder: Path) -> dict[str, Any]:
    """Copy a ranking of something else, decompressed, once every line of it is known to be one."""
    for _ in read_run(path):
        pass
    with disk_errors(folder), open_bytes(path) as source, (folder / RUN).open("wb") as copy:
        shutil.copyfileobj(source, copy)
    return {}


def _run_digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise ResourceError(f"{path}: no such run: {error.strerror}; put the ranking there") from error
