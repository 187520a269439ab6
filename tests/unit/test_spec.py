"""The encoding spec says what defines a vector, survives a file, and refuses a mismatch by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, ResourceError, SpecMismatchError
from pyserini_llm_sparse.indexing.lucene.index_spec import require_index_spec, write_index_spec
from pyserini_llm_sparse.indexing.vectors import encode_corpus
from pyserini_llm_sparse.modelling.names import EMBEDDED, SPEC_FILE, parse_encoder_name
from pyserini_llm_sparse.modelling.spec import EncodingSpec, maker, same_model, short_fingerprint, sidecar
from pyserini_llm_sparse.plugin.patches import indexing
from tests.checkpoints import copied

NAMES = ("prefix", "max_length", "top_k")


def test_a_saved_spec_is_read_back_equal(tmp_path: Path) -> None:
    spec = EncodingSpec(attention="echo", logit_scale=2048**-0.25, excluded_token_ids=(0, 7), query_prefix="query: ")
    assert spec.save(tmp_path) == tmp_path / SPEC_FILE
    assert EncodingSpec.load(tmp_path) == EncodingSpec.load(tmp_path / SPEC_FILE) == spec
    assert [path.name for path in tmp_path.iterdir()] == [SPEC_FILE]


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        EncodingSpec(attention="causal").attention = "echo"


def test_the_digest_follows_each_field() -> None:
    spec = EncodingSpec(attention="causal")
    assert spec.digest() == EncodingSpec(attention="causal").digest()
    changes = {"attention": "echo", "logit_scale": 0.5, "add_bos": False, "document_top_k": 64, "impact_factor": 51.2}
    assert len({spec.digest()} | {spec.replace(**{field: value}).digest() for field, value in changes.items()}) == 6


def test_what_a_file_leaves_out_means_the_same_for_ever() -> None:
    """A model's vectors depend on it: with another default, the files that are out there would mean other vectors."""
    assert EncodingSpec(attention="causal").model_dump() == {
        "version": 1,
        "attention": "causal",
        "query_encoder": "model",
        "query_term_counts": False,
        "logit_scale": 1.0,
        "add_bos": True,
        "add_eos": False,
        "query_prefix": "",
        "document_prefix": "",
        "query_max_length": 64,
        "document_max_length": 256,
        "text_normalisation": "none",
        "pooled_span": "all",
        "excluded_token_ids": (),
        "term_folding": "none",
        "calibrated_head": False,
        "activation": "log1p_relu",
        "query_top_k": None,
        "document_top_k": None,
        "impact_factor": 100.0,
        "impact_maximum": 65535,
        "term_naming": "token",
        "model_fingerprint": "",
    }


def test_a_digest_is_the_same_in_each_process_and_version() -> None:
    digest = "7e2c8c1ca98d049f086560ec49ea801082c647d78bd7d20e79562e813db929c1"
    assert EncodingSpec(attention="causal").digest() == digest
    assert EncodingSpec.model_validate_json('{"attention": "causal", "version": 1}').digest() == digest


def test_queries_and_documents_have_their_own_prefix_length_and_top_k() -> None:
    sides = {"query": ("q: ", 8, 3), "document": ("d: ", 9, 4)}
    values = {
        f"{side}_{name}": value for side, values in sides.items() for name, value in zip(NAMES, values, strict=True)
    }
    spec = EncodingSpec(attention="causal", **values)
    assert (spec.prefix("query"), spec.max_length("query"), spec.top_k("query")) == sides["query"]
    assert (spec.prefix("document"), spec.max_length("document"), spec.top_k("document")) == sides["document"]


@pytest.mark.parametrize("field", ["query_max_length", "document_max_length", "impact_maximum", "query_top_k"])
def test_one_is_the_least_that_a_length_or_a_limit_may_be(field: str) -> None:
    assert getattr(EncodingSpec(attention="causal").replace(**{field: 1}), field) == 1
    with pytest.raises(DataError, match=f"{field}: Input should be greater than or equal to 1"):
        EncodingSpec(attention="causal").replace(**{field: 0})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sha256:1+2", "sha256:1+2", True),
        ("sha256:1+2", "sha256:1+3", False),
        ("sha256:1+2", "sha256:4+2", False),
        ("sha256:1", "sha256:1+2", True),  # version 0.1 wrote the first part alone
        ("sha256:1+2", "sha256:1", True),
        ("sha256:1", "sha256:2+2", False),
    ],
)
def test_fingerprints_name_the_same_model_in_each_part_that_both_have(one: str, other: str, same: bool) -> None:
    assert same_model(one, other) is same


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Invalid JSON"),
        ('{"attention": "sideways"}', "attention: Input should be 'causal', 'echo' or 'bidirectional'"),
        ('{"attention": "causal", "atention": 1}', "atention: Extra inputs are not permitted"),
        ('{"attention": "causal", "logit_scale": 0}', "logit_scale: Input should be greater than 0"),
        ('{"attention": "causal", "version": 2}', "version: Input should be 1"),
    ],
)
def test_an_impossible_spec_is_refused_in_one_line(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / SPEC_FILE
    path.write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        EncodingSpec.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_spec_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot read"):
        EncodingSpec.load(tmp_path)


def test_a_mismatch_names_the_field_and_both_values() -> None:
    spec, other = EncodingSpec(attention="causal"), EncodingSpec(attention="echo", query_top_k=8)
    assert spec.difference(other) == {"attention": ("causal", "echo"), "query_top_k": (None, 8)}
    with pytest.raises(SpecMismatchError, match="attention is 'causal' here, 'echo' there") as caught:
        spec.require_equal(other, "the encoder", "the index", allowed=["query_top_k"])
    assert "query_top_k" not in str(caught.value)
    spec.require_equal(other, "the encoder", "the index", allowed=["query_top_k", "attention"])


def test_another_model_is_told_by_name_and_a_few_digits_of_both(tmp_path: Path) -> None:
    made = EncodingSpec.load(EMBEDDED)
    other = made.replace(model_fingerprint="sha256:0123456789+ab")
    first = short_fingerprint(made.model_fingerprint)
    model = "the model (weights, settings, tokenizer) is"
    for name, known in (("", False), ("org/other", True)):
        write_index_spec(tmp_path, other, name)
        with pytest.raises(SpecMismatchError) as caught:
            require_index_spec(tmp_path, made, "csplade")
        assert f"{model} csplade {first} here, {f'{name} 01234567+ab'.strip()} there; use the" in str(caught.value)
        assert (f"index {tmp_path}, which {name} made: " in str(caught.value)) is known
    write_index_spec(tmp_path, made)  # as version 0.1 left it
    with pytest.raises(SpecMismatchError) as caught:
        require_index_spec(tmp_path, other, "csplade:org/other")
    both = f"{model} csplade:org/other 01234567+ab here, csplade {first} there"
    assert f"index {tmp_path}, which csplade made: {both}" in str(caught.value)


def test_the_name_of_the_maker_defines_nothing(tmp_path: Path) -> None:
    spec = EncodingSpec(attention="causal")
    path = spec.save(tmp_path / "a.json", "org/möbius")
    assert EncodingSpec.load(path) == spec
    assert EncodingSpec.load(path).digest() == spec.digest()
    assert (maker(path), maker(spec.save(tmp_path / "b.json"))) == ("org/möbius", "")


def test_vectors_and_their_index_carry_the_name_of_their_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("llama_causal", tmp_path / "runs" / "model")
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "a wing"}\n', encoding="utf-8")
    encode_corpus(SparseEncoder.load(str(folder), device="cpu"), tmp_path / "corpus.jsonl", tmp_path / "vectors")
    assert maker(sidecar(tmp_path / "vectors")) == "runs/model"
    assert parse_encoder_name("csplade").made_by == "csplade"
    assert parse_encoder_name("csplade:org/name,revision=v2").made_by == "org/name@v2"
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setattr(sys, "argv", ["x", "--input", str(tmp_path / "vectors"), "--index", str(index), "--impact"])
    monkeypatch.setattr(indexing, "_Job", type("_Job", (indexing._Job,), {}))
    indexing.before_index({"__name__": "__main__"})
    (index / "segments_1").write_bytes(b"")
    indexing.after_index({})
    assert maker(index / SPEC_FILE) == "runs/model"


def test_fields_can_be_set_from_text() -> None:
    changed = EncodingSpec(attention="causal").replace(query_top_k="32", add_bos="false", logit_scale="0.5")
    assert (changed.query_top_k, changed.add_bos, changed.logit_scale) == (32, False, 0.5)
    with pytest.raises(DataError, match="no_such_field"):
        changed.replace(no_such_field="1")


def test_the_sidecar_lies_beside_the_folder_and_not_inside() -> None:
    assert sidecar("runs/vectors/") == Path("runs/vectors.encoding_spec.json")


def test_the_file_is_plain_json_that_a_person_can_read(tmp_path: Path) -> None:
    path = EncodingSpec(attention="bidirectional").save(tmp_path)
    assert json.loads(path.read_text())["attention"] == "bidirectional"
    assert path.read_text().count("\n") > 10
