"""The indexes of a collection's documents, and the commands that make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyserini_llm_sparse.regressions.recipe.systems import Csplade, Dense, Splade
from pyserini_llm_sparse.regressions.run.collection_steps import CollectionSteps, Contents
from pyserini_llm_sparse.regressions.run.layout import FAISS, INDEX, JSON, LUCENE, VECTORS
from pyserini_llm_sparse.regressions.run.models import TrainedModels
from pyserini_llm_sparse.regressions.run.steps import OWN_FOLDER, Step

DENSE_COMMAND = "pyserini_llm_sparse.regressions.run.dense_command"
_CHECK = ("pyserini_llm_sparse.regressions.run.checking", "--index", f"{OWN_FOLDER}/{LUCENE}")
_LUCENE_COMMAND = ("pyserini.index.lucene", "--generator", "DefaultLuceneDocumentGenerator")


@dataclass(frozen=True)
class Index:
    """A system's index: its place, and the steps that make it.

    Attributes:
        place: Path, or Pyserini's name of it.
        steps: Those that make it, none for one that is there already.
    """

    place: str
    steps: tuple[Step, ...] = ()


class Indexes:
    """The indexes of a collection's documents; collections with the same documents share them."""

    def __init__(self, own: CollectionSteps, data: Path, trained: TrainedModels) -> None:
        """Plan the indexes of a collection.

        Args:
            own: The steps of the collection that has the documents.
            data: Folder that relative paths are in.
            trained: The models that the recipe trains.
        """
        self._own, self._data, self._trained = own, data, trained

    @property
    def documents(self) -> Step:
        """The step that lays the documents out."""
        return self._own.prepared

    def prebuilt(self, name: str) -> Index:
        """Return an index that is there, in the folder of the collections or by the name that Pyserini has for it."""
        name = name.replace("{collection}", self._own.name)
        return Index(str(self._data / name) if (self._data / name).is_dir() else name)

    def of_texts(self, name: str, stored: Sequence[str]) -> Index:
        """Return the index of the documents' texts for a system; `stored` are options of what is kept beside them."""
        index = self._own.step(
            name, INDEX, "index the texts",
            *_LUCENE_COMMAND, "--collection", "JsonCollection", "--input", self._own.documents,
            "--index", f"{OWN_FOLDER}/{LUCENE}", "--threads", self._own.threads, *stored,
            check=(*_CHECK, "--texts", self._own.texts),
        )  # fmt: skip
        return Index(str(index.folder / LUCENE), (index,))

    def sparse(self, name: str, system: Csplade | Splade, options: Sequence[str], contents: Contents | None) -> Index:
        """Return the index of the sparse vectors that a system's encoder makes of the documents.

        Args:
            name: The system's name.
            system: The system.
            options: Of the encoder.
            contents: The content of its model, if the recipe does not train it.
        """
        if system.prebuilt is not None:
            return self.prebuilt(system.prebuilt)
        trained = self._trained.steps_of(system.encoder if isinstance(system, Csplade) else system.model)
        vectors = self._own.step(
            name, VECTORS, "encode the documents",
            "pyserini.encode", "input", "--corpus", self._own.documents, "output", "--embeddings",
            f"{OWN_FOLDER}/{JSON}", "encoder", *options, after=trained, contents=contents,
        )  # fmt: skip
        index = self._own.step(
            name, INDEX, "index the vectors",
            *_LUCENE_COMMAND, "--collection", "JsonVectorCollection", "--input", str(vectors.folder / JSON),
            "--index", f"{OWN_FOLDER}/{LUCENE}", "--threads", self._own.threads, "--impact", "--pretokenized",
            after=(vectors,), check=(*_CHECK, "--vectors", str(vectors.folder / JSON)),
        )  # fmt: skip
        return Index(str(index.folder / LUCENE), (*trained, vectors, index))

    def dense(self, name: str, system: Dense, options: Sequence[str], contents: Contents) -> Index:
        """Return the index of the dense vectors that a system's encoder makes of the documents; see `sparse`."""
        if system.prebuilt is not None:
            return self.prebuilt(system.prebuilt)
        prefix = [] if system.document_prefix is None else ["--prefix", system.document_prefix]
        vectors = self._own.step(
            name, VECTORS, "encode the documents",
            "pyserini.encode", "input", "--corpus", self._own.documents, "output", "--embeddings",
            f"{OWN_FOLDER}/{FAISS}", "--to-faiss", "encoder", *options, "--dimension", str(system.dimension),
            "--batch-size", str(system.batch_size), *prefix, contents=contents,
        )  # fmt: skip
        flat = str(vectors.folder / FAISS)
        if system.index == "flat":
            return Index(flat, (vectors,))
        if system.index == "hnsw":
            built = FAISS
            command = ["pyserini.index.faiss", "--input", flat, "--output", f"{OWN_FOLDER}/{FAISS}"]
            command += ["--dim", str(system.dimension), "--hnsw", "--threads", self._own.threads]
        else:
            built = LUCENE
            command = [DENSE_COMMAND, "index", "--vectors", flat, "--index", f"{OWN_FOLDER}/{LUCENE}"]
            command += ["--threads", self._own.threads]
        index = self._own.step(name, INDEX, "index the vectors", *command, after=(vectors,))
        return Index(str(index.folder / built), (vectors, index))
