"""An index remembers under which spec its vectors were made, and another encoder is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyserini_llm_sparse.modelling.spec import EncodingSpec
from tests.commands import Pyserini

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def other(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index, claiming that it was made with another logit scale."""
    copy = Path(shutil.copytree(index, tmp_path_factory.mktemp("other") / "index"))
    EncodingSpec.load(copy).replace(logit_scale=0.5).save(copy)
    return copy


def test_an_index_of_another_spec_is_refused_with_both_values(
    pyserini: Pyserini, other: Path, model: Path, topics: Path, tmp_path: Path
) -> None:
    done = pyserini.module(
        "pyserini.search.lucene", "--index", other, "--topics", topics, "--encoder", model, "--impact",
        "--output", tmp_path / "run", check=False,
    )  # fmt: skip
    assert done.returncode == 5
    last = done.stderr.strip().splitlines()[-1]
    assert "logit_scale" in last
    assert "1.0" in last
    assert "0.5" in last
    assert not (tmp_path / "run").exists()


def test_a_difference_that_is_allowed_by_name_is_searched(search: Callable, other: Path, model: Path) -> None:
    assert search("--index", other, "--encoder", model, PYSERINI_LLM_SPARSE_ALLOW_MISMATCH="logit_scale")


def test_a_field_set_in_the_encoder_name_may_differ(search: Callable, index: Path, model: Path) -> None:
    assert search("--index", index, "--encoder", f"csplade:{model},query_max_length=3")


def test_an_index_that_is_made_anew_from_other_vectors_loses_the_spec(
    make_index: Callable[[Path, str], Path], vectors: Path, tmp_path: Path
) -> None:
    first = make_index(vectors, "anew")
    assert (first / "encoding_spec.json").is_file()
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "vectors.jsonl").write_text('{"id": "1", "contents": "", "vector": {"a": 1}}\n', encoding="utf-8")
    make_index(stranger, "anew")
    assert not (first / "encoding_spec.json").exists()


@pytest.mark.parametrize("name", ["csplde", "splade-that-is-nowhere"])
def test_a_mistyped_encoder_is_one_line(
    name: str, pyserini: Pyserini, index: Path, topics: Path, tmp_path: Path
) -> None:
    done = pyserini.module(
        "pyserini.search.lucene", "--index", index, "--topics", topics, "--encoder", name, "--impact",
        "--output", tmp_path / "run", check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.strip().splitlines()[-1].startswith(f"encoder {name!r}: ")
    assert "Traceback" not in done.stderr
