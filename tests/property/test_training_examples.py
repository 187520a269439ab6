"""Whatever a training example holds, it is written and read back as it was; no bytes crash a reader."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples

texts = (
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
    .map(str.strip)
    .filter(lambda text: bool(text))
)
ids = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
scores = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    documents = {side: tuple(draw(st.lists(texts, min_size=least, max_size=4))) for side, least in (("p", 1), ("n", 0))}

    def one_each(side: str, values: st.SearchStrategy) -> tuple:
        number = len(documents[side])
        return tuple(draw(st.just([]) | st.lists(values, min_size=number, max_size=number)))

    return Example(
        query=draw(texts),
        positives=documents["p"],
        negatives=documents["n"],
        positive_scores=one_each("p", scores),
        negative_scores=one_each("n", scores),
        query_id=draw(st.none() | ids),
        positive_ids=one_each("p", ids),
        negative_ids=one_each("n", ids),
    )


@given(st.lists(examples(), max_size=5))
def test_an_example_is_read_back_as_it_was_written(written: list[Example]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        path.write_bytes(b"".join(map(example_line, written)))
        found = list(read_examples(str(path)))
    assert found == written
    assert [example.line for example in found] == list(range(1, len(written) + 1))


@given(st.binary(max_size=80), st.sampled_from(["train.jsonl", "train.tsv"]))
def test_any_bytes_are_examples_or_an_error_that_names_the_file(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            found = list(read_examples(str(path)))
        except (DataError, ResourceError) as error:
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
        else:
            assert all(example.query.strip() and all(example.positives) for example in found)


keys = st.sampled_from(["query", "anchor", "positive", "pos", "negative", "negatives", "negative_2", "score", "label",
                        "title", "qid", "positive_passages", "neg", "pos_scores", "query_id"])  # fmt: skip
leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["a cat", "", " ", "7"])
fields = st.sampled_from(["text", "title", "docid", "score", "bm25"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3), max_leaves=5
)


@settings(max_examples=300)
@given(st.sampled_from([{}, {"query": "q", "positive": "p"}]), st.dictionaries(keys, values, max_size=4))
def test_any_json_object_is_an_example_or_an_error_that_names_the_line(start: dict, more: dict) -> None:
    record = {**start, **more}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")
        try:
            [example] = read_examples(str(path))
        except DataError as error:
            assert str(error).startswith(f"{path}:1: ")
        except ResourceError as error:  # it names a text by id, and there is no collection
            assert str(error).startswith(str(path))
        else:
            assert example.query
            assert all(example.positives)
