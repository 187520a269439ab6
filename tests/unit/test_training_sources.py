"""Each format that the field has for training data is read, and a bad line names its file, number and content."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples, read_texts, source_fingerprints


def write(path: Path, *records: Any) -> str:
    """Write JSON lines (strings are written as they are), compressed as the suffix says. Returns the path."""
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    content = "".join(f"{line}\n" for line in lines).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.compress(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def read(source: str) -> list[Example]:
    return list(read_examples(source))


def only(path: Path, *records: Any) -> Example:
    [example] = read(write(path, *records))
    return example


@pytest.fixture
def marco(tmp_path: Path) -> Path:
    """A folder with a collection and queries, as MS MARCO has them."""
    write(tmp_path / "collection.tsv.gz", "10\tA cat sleeps.", "11\tDogs\tbark.", "", "7\tBirds sing. ")
    write(tmp_path / "queries.train.tsv", "1\twho sleeps", "2\twho sings")
    return tmp_path


# Tevatron -------------------------------------------------------------------------------------------------------------


def test_tevatron_lines_join_title_and_text_and_keep_ids_and_scores(tmp_path: Path) -> None:
    passages = [{"docid": "d1", "title": " Cats ", "text": "sleep. ", "score": 3}, {"docid": 2, "text": "A cat."}]
    passages[1]["score"] = 2.5
    record = {"query_id": 9, "query": " cats? ", "positive_passages": passages}
    found = only(tmp_path / "t.jsonl", {**record, "negative_passages": [{"docid": "n", "title": "", "text": "dogs"}]})
    assert found == Example(
        "cats?", ("Cats sleep.", "A cat."), ("dogs",), (3.0, 2.5), (), "9", ("d1", "2"), ("n",)
    )  # fmt: skip


def test_tevatron_lines_without_negatives_are_examples(tmp_path: Path) -> None:
    record = {"query": "q", "positive_passages": [{"text": "p"}], "negative_passages": []}
    assert only(tmp_path / "t.jsonl", record) == Example("q", ("p",))


def test_newer_tevatron_lines_name_documents_of_the_corpus_beside(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", {"docid": "a", "title": "T", "text": "x"}, {"docid": "b", "text": "y"})
    record = {"query_id": "1", "query_text": "q", "positive_document_ids": ["b"], "negative_document_ids": ["a"]}
    assert only(tmp_path / "t.jsonl", record) == Example(
        "q", ("y",), ("T x",), query_id="1", positive_ids=("b",), negative_ids=("a",)
    )


# sentence-transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["anchor", "query", "question"])
def test_pairs_and_triplets_are_read_under_the_usual_names(query: str, tmp_path: Path) -> None:
    assert only(tmp_path / "a.jsonl", {query: "q", "positive": "p"}) == Example("q", ("p",))
    assert only(tmp_path / "b.jsonl", {query: "q", "answer": "p"}) == Example("q", ("p",))
    assert only(tmp_path / "c.jsonl", {query: "q", "positive": "p", "negative": "n"}) == Example("q", ("p",), ("n",))


def test_numbered_negatives_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    numbered = {f"negative_{number}": f"n{number}" for number in (10, 2, 1)}
    found = only(tmp_path / "a.jsonl", {"anchor": "q", "positive": "p", **numbered, "negative_3": None})
    assert found.negatives == ("n1", "n2", "n10")


@pytest.mark.parametrize("key", ["scores", "score", "label", "labels"])
def test_a_list_of_scores_has_the_positive_first(key: str, tmp_path: Path) -> None:
    found = only(tmp_path / "a.jsonl", {"query": "q", "positive": "p", "negatives": ["m", "n"], key: [9, 4, 5]})
    assert (found.positive_scores, found.negative_scores) == ((9.0,), (4.0, 5.0))


def test_margins_become_scores_with_the_same_differences(tmp_path: Path) -> None:
    found = only(tmp_path / "a.jsonl", {"query": "q", "positive": "p", "negative": "n", "label": 2.5})
    assert (found.positive_scores, found.negative_scores) == ((0.0,), (-2.5,))
    found = only(tmp_path / "b.jsonl", {"query": "q", "positive": "p", "negatives": ["m", "n"], "label": [1, 2]})
    assert (found.positive_scores, found.negative_scores) == ((0.0,), (-1.0, -2.0))


def test_a_pair_labelled_as_not_relevant_is_no_positive(tmp_path: Path) -> None:
    assert only(tmp_path / "a.jsonl", {"query": "q", "positive": "p", "label": 1}) == Example("q", ("p",))
    with pytest.raises(DataError, match=r"b\.jsonl:1: label is 0"):
        read(write(tmp_path / "b.jsonl", {"query": "q", "positive": "p", "label": 0}))


def test_scores_that_do_not_fit_the_documents_are_an_error(tmp_path: Path) -> None:
    record = {"query": "q", "positive": "p", "negatives": ["m", "n"], "scores": [1, 2, 3, 4]}
    with pytest.raises(DataError, match="4 scores for 3 documents"):
        read(write(tmp_path / "a.jsonl", record))


def test_flagembedding_lists_are_texts(tmp_path: Path) -> None:
    record = {"query": "q", "pos": ["p", "r"], "neg": ["n"], "pos_scores": [2, 1], "neg_scores": [0.5]}
    assert only(tmp_path / "a.jsonl", record) == Example("q", ("p", "r"), ("n",), (2.0, 1.0), (0.5,))


# pairs ----------------------------------------------------------------------------------------------------------------


def test_the_title_of_a_pair_is_joined_before_its_positive(tmp_path: Path) -> None:
    record = {"query": "q", "positive": "p", "title": "T", "kind": "question"}
    assert only(tmp_path / "a.jsonl.gz", record) == Example("q", ("T p",))


def test_a_pair_may_name_a_passage_of_the_file_beside(tmp_path: Path) -> None:
    write(tmp_path / "passages.jsonl.gz", {"_id": "os1", "book": "b", "title": "Cells", "text": "divide."})
    write(tmp_path / "pairs.jsonl.gz", {"query": "q", "pos": "os1", "kind": "heading"})
    expected = Example("q", ("Cells divide.",), positive_ids=("os1",))
    assert read(str(tmp_path / "pairs.jsonl.gz")) == [expected]
    assert read(str(tmp_path)) == [expected]  # of the directory, the passages are no examples


# MS MARCO -------------------------------------------------------------------------------------------------------------


def test_triples_of_texts_are_read(tmp_path: Path) -> None:
    assert only(tmp_path / "triples.tsv", "who sleeps\tA cat sleeps.\tDogs bark.") == Example(
        "who sleeps", ("A cat sleeps.",), ("Dogs bark.",)
    )


def test_triples_of_ids_are_looked_up_beside_the_file(marco: Path) -> None:
    expected = Example("who sings", ("Birds sing.",), ("A cat sleeps.",), (), (), "2", ("7",), ("10",))
    assert only(marco / "qidpidtriples.tsv", "2\t7\t10") == expected
    assert read(str(marco)) == [expected]


def test_triples_with_a_teachers_scores_are_read(marco: Path) -> None:
    found = only(marco / "scored.tsv", "8.5\t-1.25\t1\t10\t11")
    assert (found.query, found.positives, found.negatives) == ("who sleeps", ("A cat sleeps.",), ("Dogs\tbark.",))
    assert (found.positive_scores, found.negative_scores) == ((8.5,), (-1.25,))


def test_hard_negatives_of_several_systems_are_taken_once_and_never_the_positive(marco: Path) -> None:
    record = {"qid": 1, "pos": [10], "neg": {"bm25": [11, 7, 10], "dense": [7]}}
    assert only(marco / "msmarco-hard-negatives.jsonl.zst", record) == Example(
        "who sleeps", ("A cat sleeps.",), ("Dogs\tbark.", "Birds sing."), (), (), "1", ("10",), ("11", "7")
    )


def test_an_id_without_a_text_names_the_line(marco: Path) -> None:
    path = write(marco / "triples.tsv", "1\t10\t11", "1\t10\t99")
    with pytest.raises(DataError, match=r"triples\.tsv:2: unknown id: .*collection\.tsv\.gz has no '99'"):
        read(path)


def test_ids_without_a_collection_say_which_files_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"no collection for its ids: .*collection\.tsv"):
        read(write(tmp_path / "triples.tsv", "1\t10\t11"))


def test_a_collection_with_one_id_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "collection.tsv", "10\tA", "11\tB", "10\tC")
    with pytest.raises(DataError, match=r"collection\.tsv: duplicate id \(id '10'\)"):
        read(write(tmp_path / "triples.tsv", "1\t10\t11"))


# BEIR -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    write(tmp_path / "corpus.jsonl.gz", *({"_id": f"d{n}", "title": f"T{n}", "text": f"x{n}"} for n in range(4)))
    write(tmp_path / "queries.jsonl", {"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two"})
    header = "query-id\tcorpus-id\tscore"
    write(tmp_path / "qrels" / "train.tsv", header, "q1\td0\t1", "q2\td1\t0", "q1\td2\t2", "q1\td3\t0")
    write(tmp_path / "qrels" / "dev.tsv", header, "q2\td1\t1")
    return tmp_path


def test_judgements_of_a_query_make_one_example_with_those_judged_0_as_negatives(
    beir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Example("one", ("T0 x0", "T2 x2"), ("T3 x3",), (), (), "q1", ("d0", "d2"), ("d3",))
    with caplog.at_level(logging.WARNING):
        assert read(str(beir)) == [expected]
    assert "1 queries have no relevant document" in caplog.text


def test_the_fragment_names_the_split(beir: Path) -> None:
    assert [example.query for example in read(f"{beir}#dev")] == ["two"]
    with pytest.raises(ResourceError, match=r"test\.tsv: no such qrels: splits found: dev, train"):
        read(f"{beir}#test")


def test_a_bad_judgement_names_its_line(beir: Path) -> None:
    write(beir / "qrels" / "bad.tsv", "query-id\tcorpus-id\tscore", "q1\td0\t1", "q1 d0")
    with pytest.raises(DataError, match=r"bad\.tsv:3: not a judgement"):
        read(f"{beir}#bad")
    write(beir / "qrels" / "missing.tsv", "q1\tnowhere\t1")
    with pytest.raises(DataError, match=r"missing\.tsv: query q1: unknown id.*'nowhere'"):
        read(f"{beir}#missing")


# the hub --------------------------------------------------------------------------------------------------------------


def test_a_hub_dataset_is_streamed_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    write(folder / "train.jsonl", {"anchor": "q", "positive": "p", "negative": "n"}, {"anchor": "r", "positive": "s"})
    write(folder / "validation.jsonl", {"anchor": "v", "positive": ""})
    assert read(f"hf:{folder}") == [Example("q", ("p",), ("n",)), Example("r", ("s",))]
    assert list(read_texts(f"hf:{folder}")) == ["p", "s"]
    with pytest.raises(DataError, match=r"@validation:1: empty positive"):
        read(f"hf:{folder}@validation")
    with pytest.raises(ResourceError, match="after row 0"):
        read(f"hf:{folder}@nonesuch")


@pytest.mark.parametrize(
    "record",
    [
        {"query": "q", "positives": ["p", "o"], "negatives": ["m", "n"], "scores": [9, None, 4, None]},
        {
            "query": "q",
            "positive_passages": [{"text": "p", "score": 9}, {"text": "o"}],
            "negative_passages": [{"text": "m", "score": 4}, {"text": "n", "score": None}],
        },
    ],
)
def test_a_score_that_a_document_lacks_is_not_a_number_also_when_written_and_read(record: Any, tmp_path: Path) -> None:
    found = only(tmp_path / "a.jsonl", record)
    assert [repr(score) for score in (*found.positive_scores, *found.negative_scores)] == ["9.0", "nan", "4.0", "nan"]
    (tmp_path / "b.jsonl").write_bytes(example_line(found))
    assert read(str(tmp_path / "b.jsonl")) == [found]


# lines and files ------------------------------------------------------------------------------------------------------

BAD_LINES = {
    "broken JSON": '{"query": "q", "positive": ',
    "not a JSON object": '["q", "p"]',
    "no query": '{"positive": "p"}',
    "no positive": '{"query": "q", "negative": "n"}',
    "empty query": '{"query": "   ", "positive": "p"}',
    "empty positive": '{"query": "q", "positive": "  "}',
    "empty negative": '{"query": "q", "positive": "p", "negatives": ["n", ""]}',
    "positive is not text": '{"query": "q", "positive": 1.5}',
    "positive without text": '{"query": "q", "positive_passages": [{"title": "t"}]}',
    "lone surrogate in the positive": '{"query": "q", "positive": "\\ud800"}',
    "a score is no number": '{"query": "q", "positive": "p", "score": "high"}',
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_bad_line_names_file_number_and_content_in_one_line(what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl.gz", {"query": "q", "positive": "p"}, "", BAD_LINES[what])
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: {what}: ")
    assert BAD_LINES[what][:20] in message
    assert "; " in message
    assert "\n" not in message


@pytest.mark.parametrize("line", ["only one field", "a\tb\tc\td", "high\t1\tq q\tp\tn", "q q\t \tn"])
def test_a_bad_tab_separated_line_does_so_too(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", "a query\ta text\tanother", line)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert line in str(caught.value).replace("\\t", "\t")


def test_a_directory_gives_the_examples_of_its_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", {"query": "2", "positive": "p"})
    write(tmp_path / "a" / "x.tsv.gz", "1 1\tp")
    write(tmp_path / "c.jsonl.zst", {"query": "3", "positive": "p"})
    write(tmp_path / ".hidden.jsonl", "no JSON")
    assert [example.query for example in read(str(tmp_path))] == ["1 1", "2", "3"]


def test_a_directory_with_other_files_is_refused_rather_than_read_in_part(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"query": "q", "positive": "p"})
    write(tmp_path / "b.arrow", "ARROW1")
    with pytest.raises(DataError, match=r"b\.arrow: not a file of records"):
        read(str(tmp_path))


def test_sources_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="nowhere: no such file or directory"):
        read(str(tmp_path / "nowhere"))
    with pytest.raises(ResourceError, match="holds no file of them"):
        read(str(tmp_path))
    with pytest.raises(UsageError, match="irds:x: no training examples"):
        read("irds:x")


def test_reading_starts_before_the_file_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"query": "q", "positive": "p"}, "not JSON")
    assert next(read_examples(path)).query == "q"


# texts ----------------------------------------------------------------------------------------------------------------


def test_texts_come_from_corpora_text_files_and_the_positives_of_examples(tmp_path: Path, beir: Path) -> None:
    corpus = write(tmp_path / "c.jsonl", {"title": "T", "heading": "h", "text": "x"}, {"_id": 1, "contents": "y"})
    assert list(read_texts(corpus)) == ["T x", "y"]
    assert list(read_texts(write(tmp_path / "c.tsv", "1\tx y", "2\tz"))) == ["x y", "z"]
    assert list(read_texts(write(tmp_path / "c.txt", "one text", "", " another\tone "))) == ["one text", "another\tone"]
    assert list(read_texts(str(beir))) == ["T0 x0", "T1 x1", "T2 x2", "T3 x3"]
    assert list(read_texts(f"{beir}#train")) == ["T0 x0", "T2 x2"]
    pairs = write(
        tmp_path / "p.jsonl", {"query": "q", "positive": "p", "title": "T"}, {"query": "q", "pos": ["r", "s"]}
    )
    assert list(read_texts(pairs)) == ["T p", "r", "s"]
    assert list(read_texts(write(tmp_path / "t.tsv", "a query\tp\tn"))) == ["p"]


def test_texts_without_content_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "c.jsonl", {"_id": "1", "text": ""}, {"_id": "2", "title": " ", "text": "x"})
    with caplog.at_level(logging.WARNING):
        assert list(read_texts(path)) == ["x"]
    assert "1 texts without content" in caplog.text


def test_a_record_without_text_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.jsonl:2: no field contents or text or title: the record has definition"):
        list(read_texts(write(tmp_path / "c.jsonl", {"text": "x"}, {"definition": "y"})))


def test_texts_of_examples_do_not_need_their_negatives(marco: Path) -> None:
    by_id = write(marco / "triples.tsv", "2\t7\tnowhere", "0.5\t0.1\t2\t7\tnowhere")
    tevatron = write(marco / "pairs.jsonl", {"qid": 2, "pos": [7], "neg": ["nowhere"], "scores": [1, 2]})
    texts = list(read_texts(by_id))
    assert len(texts) == 2 and list(read_texts(tevatron)) == texts[:1]


# fingerprints ---------------------------------------------------------------------------------------------------------


def test_fingerprints_name_every_file_that_was_read(marco: Path) -> None:
    path = write(marco / "triples.tsv", "2\t7\t10")
    found = source_fingerprints([path, str(marco)])
    assert [entry["name"] for entry in found[:3]] == ["triples.tsv", "collection.tsv.gz", "queries.train.tsv"]
    assert {entry["name"] for entry in found[3:]} == {"triples.tsv", "collection.tsv.gz", "queries.train.tsv"}
    content = Path(path).read_bytes()
    assert found[0] == {
        "source": path, "name": "triples.tsv", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()
    }  # fmt: skip


def test_fingerprints_of_texts_in_files_leave_out_what_they_do_not_refer_to(marco: Path) -> None:
    path = write(marco / "pairs.jsonl", {"query": "q", "positive": "p"})
    assert [entry["name"] for entry in source_fingerprints([path])] == ["pairs.jsonl"]


def test_fingerprints_of_a_split_hold_its_judgements_only(beir: Path) -> None:
    names = [entry["name"] for entry in source_fingerprints([f"{beir}#dev"])]
    assert names == ["corpus.jsonl.gz", "queries.jsonl", "dev.tsv"]


# real data ------------------------------------------------------------------------------------------------------------


def test_real_pairs_and_judgements_are_read_whole(data: Path) -> None:
    assert sum(1 for _ in read_examples(str(data / "train" / "squad.jsonl.gz"))) == 33797
    scifact = read(str(data / "scifact"))
    assert len(scifact) == 809
    assert sum(len(example.positives) for example in scifact) == 919


def test_written_lines_have_tevatrons_keys() -> None:
    example = Example("q", ("p",), ("n",), (1.0,), (0.5,), "7", ("a",), ("b",))
    assert json.loads(example_line(example)) == {
        "query_id": "7",
        "query": "q",
        "positive_passages": [{"docid": "a", "title": "", "text": "p", "score": 1.0}],
        "negative_passages": [{"docid": "b", "title": "", "text": "n", "score": 0.5}],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"positives": ()},
        {"positive_scores": (1.0, 2.0)},
        {"negative_ids": ("a",)},
        {"positive_scores": (float("inf"),)},
    ],
)
def test_an_example_that_no_training_can_use_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="example 'q'"):
        Example(**{"query": "q", "positives": ("p",), **fields})


def test_a_hub_that_cannot_be_asked_costs_the_revision_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert source_fingerprints(["hf:owner/name"]) == [{"source": "hf:owner/name", "revision": None}]
    assert "does not say its revision" in caplog.text  # tests run offline
