"""What everything but the model costs: documents per second of writing alone, and the pipeline's share of a whole job.

    python benchmarks/output_speed.py --corpus ../shared/data/scifact/corpus.jsonl.gz --threads 2

Writing starts from vectors of 256 random terms of a vocabulary of 128k and ends with lines of JSON on the disk, texts
included; both sides write the same content, which is compared.

- ``ours``: the encoding job with a model that takes no time, from the first record read to the last file on the disk.
- ``pyserini``: the Python part of its SpladeDocumentEncoder, from the dense rows that its model would have given, and
  its JsonlRepresentationWriter.

The second table is of whole jobs on a corpus (by default the demo's) with ``torch`` and the precisions of ONNX Runtime:
the share of the wall time, from the first record read to the last file on the disk, in which the model did not compute.
Tokenising is a part of that share.

Each way runs in a process of its own; the rounds of all ways alternate. Reported are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from beir_collections import lines
from encoding_speed import read_texts
from rounds import Figures, alternate, print_table, serve

from pyserini_llm_sparse.indexing.vectors.encode import BATCH_SIZE, encode_corpus
from pyserini_llm_sparse.modelling.vectors import SparseVectors
from pyserini_llm_sparse.onnx.runtime.precision import PRECISIONS

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo" / "corpus" / "corpus.jsonl"
VOCABULARY, TERMS = 128_256, 256
FACTOR = 256 / 5  # impacts per unit of weight, as Pyserini has it
WRITERS = ("ours", "pyserini")
JOBS = ("torch", *(f"onnx {precision}" for precision in PRECISIONS))
Documents = list[tuple[str, str]]


def tokens() -> list[str]:
    """Return the tokens of the vocabulary."""
    return [f"Ġterm{number}" for number in range(VOCABULARY)]


def vectors_of(documents: int) -> SparseVectors:
    """Return random vectors; no weight is so small that its impact is 0."""
    chance = np.random.default_rng(7)
    ids = [chance.choice(VOCABULARY, TERMS, replace=False) for _ in range(documents)]
    return SparseVectors.from_rows(ids, list(chance.uniform(0.05, 3, (documents, TERMS))), VOCABULARY)


class FreeEncoder:
    """Stands in for a `SparseEncoder`: its vectors are there already."""

    def __init__(self, documents: Documents) -> None:
        from pyserini_llm_sparse.modelling.spec import EncodingSpec
        from pyserini_llm_sparse.modelling.terms import TermVocabulary

        self.spec = EncodingSpec(attention="causal", impact_factor=FACTOR)
        self.vocabulary = TermVocabulary(tokens())
        self.checkpoint = SimpleNamespace(made_by=None)
        self.loader = SimpleNamespace(precision="none")
        self.tokenization = SimpleNamespace(truncated_documents=0)
        self.engine = None
        self._vectors = vectors_of(len(documents))
        self._row_of = {text: row for row, (_, text) in enumerate(documents)}

    def encode_documents(self, texts: Sequence[str], batch_size: int) -> SparseVectors:
        """Return the documents' vectors."""
        return self._vectors[[self._row_of[text] for text in texts]]


def our_writer(corpus: Path, documents: Documents, folder: Path) -> Callable[[], float]:
    """Return what writes all documents to ``vectors`` in a folder by the encoding job, and the seconds it takes."""
    encoder: Any = FreeEncoder(documents)

    def write() -> float:
        started = time.perf_counter()
        encode_corpus(encoder, corpus, folder / "vectors", contents=True, overwrite=True)
        return time.perf_counter() - started

    return write


def pyserini_writer(corpus: Path, documents: Documents, folder: Path) -> Callable[[], float]:
    """Return what writes the same by Pyserini's code, and the seconds it takes; dense rows are made before them."""
    from pyserini.encode import JsonlRepresentationWriter, SpladeDocumentEncoder
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    encoder = SpladeDocumentEncoder.__new__(SpladeDocumentEncoder)  # without a model
    vocabulary = {token: number for number, token in enumerate(tokens())}
    encoder.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "Ġterm0")))
    vectors = vectors_of(len(documents))

    def write() -> float:
        seconds, writer = 0.0, JsonlRepresentationWriter(str(folder / "vectors"))
        with writer:
            for start in range(0, len(documents), BATCH_SIZE):
                dense = vectors[start : start + BATCH_SIZE].matrix.toarray()
                ids, texts = zip(*documents[start : start + BATCH_SIZE], strict=True)
                started = time.perf_counter()
                weights = encoder._get_encoded_query_token_wight_dicts(encoder._output_to_weight_dicts(dense))
                writer.write({"id": ids, "text": texts, "vector": weights}, ["text"])
                seconds += time.perf_counter() - started
        return seconds

    return write


class Timed:
    """An engine, or a tokenization, whose calls are timed."""

    def __init__(self, wrapped: Any, method: str) -> None:
        self.seconds = 0.0
        self._wrapped = wrapped
        self._method = method

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if name != self._method:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return found(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return call


def job(way: str, model: str, corpus: Path, folder: Path, threads: int) -> Callable[[], Figures]:
    """Load a model. Returns what encodes the corpus and says how the time was spent."""
    from pyserini_llm_sparse import SparseEncoder

    precision = None if way == "torch" else way.removeprefix("onnx ")
    encoder = SparseEncoder.load(model, device="cpu", threads=threads, precision=precision)
    encoder.document_impacts(["warm up"] * BATCH_SIZE)
    real_engine, real_tokenization = encoder.engine, encoder.tokenization

    def work() -> Figures:
        engine, tokenization = Timed(real_engine, "encode"), Timed(real_tokenization, "token_ids")
        encoder._engine, encoder.tokenization = engine, tokenization  # type: ignore[assignment]
        started = time.perf_counter()
        report = encode_corpus(encoder, corpus, folder / "vectors", overwrite=True)
        seconds = time.perf_counter() - started
        return {
            "documents_per_second": report.encoded / seconds,
            "not_in_model": 1 - engine.seconds / seconds,
            "tokenising": tokenization.seconds / seconds,
        }

    return work


def load(way: str, options: argparse.Namespace) -> Callable[[], Figures]:
    """Load a way. Returns what does one round of it."""
    corpus, folder = Path(options.corpus), Path(options.folder) / way.replace(" ", "-")
    if way in JOBS:
        return job(way, options.model, corpus, folder, options.threads)
    documents = [(record["id"], record["contents"]) for record in lines(corpus)]
    write = (our_writer if way == "ours" else pyserini_writer)(corpus, documents, folder)
    return lambda: {"documents_per_second": len(documents) / write()}


def written(folder: Path) -> dict[str, Any]:
    """Return the records of the files of vectors in a folder, by id."""
    found: dict[str, Any] = {}
    for path in folder.iterdir():
        found |= {record["id"]: record for record in lines(path)}
    return found


def write_corpus(path: Path, texts: Sequence[str], documents: int) -> None:
    """Write a corpus of so many documents, the texts again and again with a number at their end."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(documents):
            record = {"id": f"document-{number}", "contents": f"{texts[number % len(texts)]} {number}"}
            stream.write(json.dumps(record) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default=str(DEMO), help="a BEIR corpus.jsonl or corpus.jsonl.gz")
    parser.add_argument("--model", default="csplade", help="an encoder name")
    parser.add_argument("--documents", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=(*WRITERS, *JOBS), default=[*WRITERS, *JOBS])
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    for hidden in ("--worker", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(lambda: load(options.worker, options))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, corpus = Path(name), Path(name) / "corpus.jsonl"
        os.environ["PYSERINI_LLM_SPARSE_CACHE"] = name
        write_corpus(corpus, read_texts(options.corpus, options.documents), options.documents)
        base = [__file__, "--corpus", corpus, "--folder", folder, "--model", options.model]
        base += ["--threads", options.threads, "--worker"]
        measured = alternate({way: [*base, way] for way in options.ways}, options.rounds)
        if all(way in measured.figures for way in WRITERS):
            ours, theirs = (written(folder / way / "vectors") for way in WRITERS)
            if ours != theirs:
                raise SystemExit("output_speed: ours and pyserini wrote other content")
    measured.save(options.json)
    speed, rows = "documents_per_second", []
    for way in [way for way in WRITERS if way in measured.figures]:
        rows.append([way, f"{measured.figures[way][speed]:,.0f}", measured.ratio(way, "pyserini", speed)])
    if rows:
        print_table(["writing", "documents/s", "of pyserini"], rows)
        print()
    rows = []
    for way in [way for way in JOBS if way in measured.figures]:
        found = measured.figures[way]
        rows.append([way, f"{found[speed]:,.1f}", f"{found['not_in_model']:.1%}", f"{found['tokenising']:.1%}"])
    if rows:
        print_table(["job", "documents/s", "not in the model", "tokenising"], rows)
    measured.print_reasons()


if __name__ == "__main__":
    main()
