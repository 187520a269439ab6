"""From a recipe to steps: the Pyserini commands that each system needs on each collection, each of them once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

from pyserini_llm_sparse import __version__
from pyserini_llm_sparse.regressions.collection import DOCUMENTS, QRELS, TOPICS, Collection
from pyserini_llm_sparse.regressions.models import dense_digest, located, sparse_digest
from pyserini_llm_sparse.regressions.recipe import Bm25, Csplade, Dense, Fusion, Recipe
from pyserini_llm_sparse.regressions.steps import OWN_FOLDER, Step

# In the folders of the steps that make them.
RUN, INDEX, VECTORS, FAISS = "run.txt", "lucene", "json", "faiss"
COLLECTION = "_collection"  # beside the systems, none of which can have this name
_QUERIES_AT_ONCE = "64"  # in a dense search
_INDEX_COMMAND = ("pyserini.index.lucene", "--generator", "DefaultLuceneDocumentGenerator")


@dataclass
class CollectionPlan:
    """What is done on one collection.

    Attributes:
        name: The collection's name.
        prepared: The step that lays it out.
        systems: The steps of each system, in order; the last one makes its run file.
    """

    name: str
    prepared: Step
    systems: dict[str, tuple[Step, ...]] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        """All steps, each once, in an order in which they can be done."""
        return list(dict.fromkeys(step for steps in self.systems.values() for step in steps))

    @property
    def qrels(self) -> Path:
        """The judgements."""
        return self.prepared.folder / QRELS

    def run(self, system: str) -> Path:
        """Return a system's run file."""
        return self.systems[system][-1].folder / RUN


def plan_recipe(
    recipe: Recipe, data: Path, work: Path, threads: int, only: Sequence[str] | None = None
) -> list[CollectionPlan]:
    """Plan the systems of a recipe on all of its collections; neither those nor models are looked at yet.

    Args:
        recipe: The recipe.
        data: Folder that relative paths of collections are in.
        work: Folder for everything that is made.
        threads: Of indexing and searching.
        only: Names of the systems that are wanted, and with them those that they fuse; None for all.
    """
    plans = []
    for name, source in recipe.collections.items():
        collection = Collection(source, data)
        prepared = Step(
            f"{name}: prepare the collection", work / name / COLLECTION, work=collection.write,
            contents={"collection": collection.digest},
        )  # fmt: skip
        planner = _Planner(recipe, prepared, work / name, threads)
        plans.append(
            CollectionPlan(name, prepared, {system: planner.steps(system) for system in only or recipe.systems})
        )
    return plans


class _Planner:
    """Plans the systems of one collection; what several of them need is one step."""

    def __init__(self, recipe: Recipe, prepared: Step, work: Path, threads: int) -> None:
        self._recipe = recipe
        self._prepared = prepared
        self._work = work
        self._threads = str(threads)
        self._made: dict[tuple[str, ...], Step] = {}
        self._of_system: dict[str, tuple[Step, ...]] = {}

    def steps(self, name: str) -> tuple[Step, ...]:
        """Return the steps of a system by its name."""
        if name not in self._of_system:
            system = self._recipe.systems[name]
            if isinstance(system, Bm25):
                steps = self._bm25(name, system)
            elif isinstance(system, Csplade):
                steps = self._csplade(name, system)
            elif isinstance(system, Dense):
                steps = self._dense(name, system)
            else:
                steps = self._fusion(name, system)
            self._of_system[name] = tuple(dict.fromkeys((self._prepared, *steps)))
        return self._of_system[name]

    def _bm25(self, name: str, system: Bm25) -> tuple[Step, ...]:
        index = self._step(
            name, "index", "index the texts",
            *_INDEX_COMMAND, "--collection", "JsonCollection", "--input", self._documents,
            "--index", f"{OWN_FOLDER}/{INDEX}", "--threads", self._threads,
            # Feedback reads the terms of the documents that were found.
            *(["--storeDocvectors"] if system.rm3 else []),
        )  # fmt: skip
        options = ["--bm25", "--k1", str(system.k1), "--b", str(system.b), *(["--rm3"] if system.rm3 else [])]
        return index, self._search(name, index, *options)

    def _csplade(self, name: str, system: Csplade) -> tuple[Step, ...]:
        encoder = system.encoder + (f",precision={system.precision}" if system.precision else "")
        queries = encoder + (f",query_encoder={system.query_encoder}" if system.query_encoder else "")
        contents = {"model": partial(sparse_digest, queries)}
        # Documents do not depend on how queries are encoded: systems that differ in that alone share the index.
        vectors = self._step(
            name, "vectors", "encode the documents",
            "pyserini.encode", "input", "--corpus", self._documents, "output", "--embeddings",
            f"{OWN_FOLDER}/{VECTORS}", "encoder", "--encoder", encoder, "--batch-size", str(system.batch_size),
            contents=contents,
        )  # fmt: skip
        index = self._step(
            name, "index", "index the vectors",
            *_INDEX_COMMAND, "--collection", "JsonVectorCollection", "--input", str(vectors.folder / VECTORS),
            "--index", f"{OWN_FOLDER}/{INDEX}", "--threads", self._threads, "--impact", "--pretokenized",
            after=(vectors,),
        )  # fmt: skip
        return vectors, index, self._search(name, index, "--impact", "--encoder", queries, contents=contents)

    def _dense(self, name: str, system: Dense) -> tuple[Step, ...]:
        model = located(system.model)
        contents = {"model": partial(dense_digest, model)}
        how = ["--encoder", model, "--encoder-class", "auto", "--pooling", system.pooling]
        how += ["--l2-norm"] if system.normalise else []
        length = ["--max-length", str(system.max_length)]
        vectors = self._step(
            name, "vectors", "encode the documents",
            "pyserini.encode", "input", "--corpus", self._documents, "output", "--embeddings",
            f"{OWN_FOLDER}/{FAISS}", "--to-faiss", "encoder", *how, *length, "--dimension", str(system.dimension),
            "--batch-size", str(system.batch_size), *_prefix("--prefix", system.document_prefix), contents=contents,
        )  # fmt: skip
        index = vectors
        if system.index == "hnsw":
            index = self._step(
                name, "index", "index the vectors",
                "pyserini.index.faiss", "--input", str(vectors.folder / FAISS), "--output", f"{OWN_FOLDER}/{FAISS}",
                "--dim", str(system.dimension), "--hnsw", "--threads", self._threads, after=(vectors,),
            )  # fmt: skip
        search = self._step(
            name, "search", "search",
            "pyserini.search.faiss", "--index", str(index.folder / FAISS), "--topics", self._topics,
            "--output", f"{OWN_FOLDER}/{RUN}", "--hits", str(self._recipe.hits), "--threads", self._threads,
            "--batch-size", _QUERIES_AT_ONCE, *how, *length, *_prefix("--query-prefix", system.query_prefix),
            after=(index,), contents=contents,
        )  # fmt: skip
        return vectors, index, search

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
            name, "search", "fuse the rankings",
            "pyserini.fusion", *options, "--runs", *(str(step.folder / RUN) for step in runs),
            "--output", f"{OWN_FOLDER}/{RUN}", "--runtag", name, "--depth", hits, "--k", hits, after=tuple(runs),
        )  # fmt: skip
        return (*(step for steps in needed for step in steps), fused)

    def _search(
        self, name: str, index: Step, *options: str, contents: Mapping[str, Callable[[], str]] | None = None
    ) -> Step:
        return self._step(
            name, "search", "search",
            "pyserini.search.lucene", "--index", str(index.folder / INDEX),
            "--topics", self._topics, "--output", f"{OWN_FOLDER}/{RUN}",
            "--hits", str(self._recipe.hits), "--threads", self._threads, *options,
            after=(index,), contents=contents,
        )  # fmt: skip

    @property
    def _topics(self) -> str:
        return str(self._prepared.folder / TOPICS)

    @property
    def _documents(self) -> str:
        return str((self._prepared.folder / DOCUMENTS).parent)

    def _step(
        self, system: str, folder: str, what: str, *command: str, after: tuple[Step, ...] = (),
        contents: Mapping[str, Callable[[], str]] | None = None,
    ) -> Step:  # fmt: skip
        """Return a step; an earlier one with the same command is taken in its place."""
        step = Step(
            f"{self._work.name}: {system}: {what}", self._work / system / folder, command, (self._prepared, *after),
            {"versions": versions, **(contents or {})},
        )  # fmt: skip
        return self._made.setdefault(command, step)


def _prefix(option: str, text: str | None) -> list[str]:
    return [] if text is None else [option, text]


def versions() -> str:
    """Return the versions of what makes the output of the commands."""
    return f"pyserini {metadata.version('pyserini')}, pyserini-llm-sparse {__version__}"
