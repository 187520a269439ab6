"""Pyserini's command encodes a SPLADE through this package's encoder and through its own, with the same result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar
from tests import masked_checkpoints  # noqa: F401
from tests.checkpoints import checkpoint
from tests.commands import Pyserini
from tests.integration.conftest import read_vectors

pytestmark = pytest.mark.end_to_end

Run = dict[str, list[tuple[str, float]]]


def test_encoded_indexed_and_searched_it_is_pyserinis_own_splade(
    pyserini: Pyserini,
    documents: list[dict[str, str]],
    queries: dict[str, str],
    make_index: Callable[[Path, str], Path],
    search: Callable[..., Run],
) -> None:
    model = checkpoint("bert_splade")
    texts = {document["id"]: document["text"] for document in documents if document["text"]}  # Pyserini's needs text
    corpus = pyserini.folder / "splade-corpus"
    corpus.mkdir()
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (corpus / "documents.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {}
    for encoder_class in ("csplade", "splade"):
        folder = pyserini.folder / f"splade-by-{encoder_class}"
        pyserini.module(
            "pyserini.encode",
            "input", "--corpus", corpus, "--fields", "text",
            "output", "--embeddings", folder,
            "encoder", "--encoder", model, "--encoder-class", encoder_class, "--fields", "text", "--batch-size", 8,
            "--device", "cpu",
        )  # fmt: skip
        found[encoder_class] = read_vectors(folder)
    assert EncodingSpec.load(sidecar(pyserini.folder / "splade-by-csplade")).impact_factor == 51.2
    for name in texts:
        own, theirs = found["csplade"][name], found["splade"][name]  # which lists impacts of 0, too
        padded = {term: own.get(term, 0) for term in {*own, *theirs}}
        assert own and padded == pytest.approx({term: theirs.get(term, 0) for term in padded}, abs=1)
    index = make_index(pyserini.folder / "splade-by-csplade", "splade-index")
    by_theirs, by_ours = (
        search("--index", index, "--encoder", model, *options, "--device", "cpu")
        for options in ([], ["--encoder-class", "csplade"])  # Pyserini knows its own by "splade" in the name
    )
    assert by_ours.keys() == by_theirs.keys() == set(queries)
    for query, hits in by_ours.items():
        assert {document for document, _ in hits} == set(texts)
        assert dict(hits) == pytest.approx(dict(by_theirs[query]), rel=1e-3), query
