"""Hard negatives from real Lucene indexes: near to the query, never relevant to it, and the same in every run."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.indexing.lucene import Hit
from pyserini_llm_sparse.indexing.lucene.bm25 import BM25Index, index_texts
from pyserini_llm_sparse.indexing.lucene.building import run_indexer
from pyserini_llm_sparse.training.config.fields import MineConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples
from pyserini_llm_sparse.training.preparation import mining
from pyserini_llm_sparse.training.preparation.mining import candidates, mine
from pyserini_llm_sparse.training.preparation.mining_store import text_key
from tests.checkpoints import checkpoint

pytestmark = [pytest.mark.end_to_end, pytest.mark.usefixtures("forked_children")]

ANIMALS = ("otter", "heron", "badger", "lynx", "marmot", "beaver", "ibex", "raven")
HABITS = ("swims through cold rivers", "builds nests from twigs", "sleeps all winter", "hunts by dusk", "climbs rocks")
CORPUS = {f"{animal}-{number}": f"The {animal} {habit}." for animal in ANIMALS for number, habit in enumerate(HABITS)}
TWIN = "Cold rivers: the otter swims through!"  # scores as otter-0 does
QUERY = "Which heron hunts by dusk."
SECOND = "Rivers are cold, and otters know it."


def _examples() -> list[Example]:
    """Forty questions; the first stands here twice, in two spellings and with different positives."""
    asked = [
        Example(f"Which {name.split('-')[0]} {text.split(' ', 2)[2]}", (text,), query_id=name, source="-", line=1)
        for name, text in CORPUS.items()
    ]
    second = Example("which  OTTER swims through cold rivers.", (SECOND,), positive_ids=("second",), query_id="second")
    nothing = Example("and the", ("Articles and conjunctions.",), ("old negative",), (1.0,), (0.5,), "nothing")
    return [*asked, second, nothing]


def _write_corpus(path: Path, documents: dict[str, str]) -> str:
    path.write_text(
        "".join(json.dumps({"_id": name, "title": "", "text": text}) + "\n" for name, text in documents.items()),
        encoding="utf-8",
    )
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples, and a corpus with all positives but the last, a twin of the first, and one document in two copies."""
    folder = tmp_path_factory.mktemp("mining")
    (folder / "train.jsonl").write_bytes(b"".join(map(example_line, _examples())))
    _write_corpus(
        folder / "corpus.jsonl",
        {**CORPUS, "second": SECOND, "twin": TWIN, "copy": "the OTTER  climbs rocks.", "query": QUERY},
    )
    return folder


def _config(folder: Path, output: str, **settings: Any) -> MineConfig:
    given = {"train": (str(folder / "train.jsonl"),), "corpus": str(folder / "corpus.jsonl"), **settings}
    return MineConfig(output=folder / output, **given)


def _by_id(path: Path) -> dict[str, Example]:
    return {str(example.query_id): example for example in read_examples(str(path))}


def _originals(example: Example) -> set[str]:
    """The ids of an example's negatives; of a document and its copy either may be drawn."""
    return {"otter-4" if name == "copy" else name for name in example.negative_ids}


@pytest.fixture(scope="module")
def mined(folder: Path) -> tuple[mining.MineReport, dict[str, Example]]:
    """Everything that BM25 finds, up to thirty negatives each."""
    report = mine(_config(folder, "mined.jsonl", negatives=30, hits=50))
    return report, _by_id(folder / "mined.jsonl")


def test_negatives_share_words_with_the_query_and_are_not_relevant(
    mined: tuple[mining.MineReport, dict[str, Example]],
) -> None:
    report, found = mined
    assert [*found] == [example.query_id for example in _examples()], "the order of the input"
    for name, text in CORPUS.items():
        animal, number = name.split("-")
        near = {key for key in CORPUS if (key.startswith(animal) or key.endswith(number)) and key != name}
        assert _originals(found[name]) & {*CORPUS} == near, name
        assert text not in found[name].negatives
    assert report.examples == len(found) and report.documents == len(CORPUS) + 4
    assert report.negatives == sum(len(example.negatives) for example in found.values())


def test_no_positive_of_an_equal_query_is_a_negative(mined: tuple[mining.MineReport, dict[str, Example]]) -> None:
    _, found = mined
    assert "second" not in found["otter-0"].negative_ids, "by the id that the other spelling of the query has"
    assert "otter-0" not in found["second"].negative_ids, "by the text that the other spelling of the query has"
    assert "second" in found["lynx-0"].negative_ids, "another question may have it"
    assert "copy" not in found["otter-4"].negative_ids, "a copy of the positive is a positive"


def test_a_text_is_drawn_once_and_never_the_query_itself(mined: tuple[mining.MineReport, dict[str, Example]]) -> None:
    _, found = mined
    assert len({"copy", "otter-4"} & set(found["otter-1"].negative_ids)) == 1
    assert "query" not in found["heron-3"].negative_ids and "query" in found["heron-2"].negative_ids


def test_examples_without_negatives_are_written_and_counted(
    mined: tuple[mining.MineReport, dict[str, Example]],
) -> None:
    report, found = mined
    assert found["nothing"].negatives == () == found["nothing"].positive_scores
    assert found["nothing"].positives == ("Articles and conjunctions.",)
    assert (report.without_negatives, report.positive_not_found, report.short) == (1, 1, len(found))
    assert "42 have fewer than asked for, 1 of them none; no positive of 1 was among the hits" in report.summary()


def test_the_margin_leaves_out_what_scores_like_a_positive_and_the_seed_decides_what_is_drawn(
    folder: Path, mined: tuple[mining.MineReport, dict[str, Example]]
) -> None:
    _, without = mined
    report = mine(_config(folder, "margin.jsonl", negatives=30, hits=50, least_margin=0.05, seed=7))
    found = _by_id(folder / "margin.jsonl")
    assert "twin" in without["otter-0"].negative_ids and "twin" not in found["otter-0"].negative_ids
    assert _originals(found["otter-0"]) == _originals(without["otter-0"]) - {"twin"}
    same = [name for name in found if _originals(found[name]) == _originals(without[name])]
    assert len(same) > 30 and any(found[name].negative_ids != without[name].negative_ids for name in same)
    assert report.without_negatives == report.positive_not_found == 1


def test_a_margin_compares_with_the_best_positive_from_the_first_rank_on() -> None:
    hits = [Hit("a", 10.0), Hit("p", 9.0), Hit("b", 8.6), Hit("r", 8.0), Hit("c", 4.0)]
    assert candidates(hits, {"p", "r"}, 1, None) == ["a", "b", "c"]
    assert candidates(hits, {"p", "r"}, 2, None) == ["b", "c"]
    assert candidates(hits, {"p", "r"}, 1, 0.0) == ["b", "c"]
    assert candidates(hits, {"p", "r"}, 1, 0.05) == ["c"]
    assert candidates(hits, {"elsewhere"}, 1, 0.0) == [], "a positive that is not found scores no more than the hits"


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    folder: Path, mined: tuple[mining.MineReport, dict[str, Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = mined
    monkeypatch.setattr(mining, "CHUNK", 16)
    config = _config(folder, "resumed.jsonl.gz", negatives=30, hits=50)
    index = folder / "resumed.jsonl.gz.work" / "index"

    def interrupt(count: int, now: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(config, progress=interrupt)
    assert not config.output.exists()
    made = index.stat().st_ino, max(path.stat().st_mtime_ns for path in index.iterdir())
    calls: list[tuple[int, bool]] = []

    def look(count: int, now: bool) -> None:
        calls.append((count, now))
        found = index.stat().st_ino, max(path.stat().st_mtime_ns for path in index.iterdir())
        assert found == made, "the index is not made again"

    report = mine(config, progress=look)
    assert calls == [(16, False), (16, True), (10, True)]
    assert not index.parent.exists()
    assert gzip.decompress(config.output.read_bytes()) == whole.output.read_bytes()
    assert report.negatives == whole.negatives


def test_an_encoder_of_ours_mines_what_it_ranks_high_among_the_positives(folder: Path) -> None:
    name = f"csplade:{checkpoint('llama_bidirectional')}"
    settings = {"corpus": None, "encoder": name, "hits": 8, "negatives": 4, "first_rank": 2}
    report = mine(_config(folder, "encoder.jsonl", **settings))
    found = list(read_examples(str(folder / "encoder.jsonl")))
    encoder = SparseEncoder.load(name)
    corpus = [example.positives[0] for example in found]
    vectors = encoder.document_impacts(corpus)
    assert report.documents == len(set(corpus)) == len(corpus)
    compared = 0
    for example in found[:10]:
        (query,) = encoder.query_impacts([example.query])
        scores = {
            text: sum(impact * vector.get(term, 0) for term, impact in query.items())
            for text, vector in zip(corpus, vectors, strict=True)
        }
        ranked = sorted(scores.values(), reverse=True)
        assert all(ranked[1] >= scores[text] >= ranked[7] for text in example.negatives), "ranks 2 to 8"
        assert not {*example.positives} & {*example.negatives}
        compared += len(example.negatives)
    assert compared == 40 and len(set(ranked)) > 10
    assert report.negatives == sum(len(example.negatives) for example in found)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"output": "train.jsonl"}, UsageError, "exists already"),
        ({"output": "negatives"}, UsageError, r"ends in \.jsonl"),
        ({"first_rank": 101}, UsageError, "beyond the 100 hits"),
        ({"train": ("nowhere.jsonl",)}, ResourceError, "nowhere"),
        ({"corpus": "nowhere.jsonl"}, ResourceError, "no such corpus"),
        ({"encoder": "nowhere/at-all"}, ResourceError, "nowhere/at-all"),
        ({"train": ("{}/empty.jsonl",)}, DataError, "no examples"),
        ({"corpus": "{}/empty.jsonl"}, DataError, "no documents"),
        ({"corpus": "{}/twice.jsonl"}, DataError, r"twice\.jsonl:2: id 'a': another document"),
        ({"corpus": "{}/other.jsonl", "least_margin": 0.1}, DataError, "holds none of the positives"),
    ],
)
def test_what_cannot_be_mined_is_refused(
    folder: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    def placed(value: Any) -> Any:
        return value.format(tmp_path) if isinstance(value, str) else value

    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n', encoding="utf-8")
    _write_corpus(tmp_path / "other.jsonl", {"a": "Something else."})
    given = {key: tuple(map(placed, value)) if isinstance(value, tuple) else placed(value)
             for key, value in settings.items()}  # fmt: skip
    config = _config(folder, **{"output": "refused.jsonl", **given})
    with pytest.raises(error, match=message):
        mine(config.model_copy(update={"output": tmp_path / config.output.name}))


def test_bm25_scores_by_the_formula(tmp_path: Path) -> None:
    """Robertson and Zaragoza (2009), with Lucene's idf, k1 .9 and b .4; Anserini rounds scores to 4 places."""
    from math import log

    texts = {"d1": "otter otter river", "d2": "river stone", "d3": "stone stone stone wall", "d4": "?!"}
    (tmp_path / "documents").mkdir()
    _write_lines(tmp_path / "documents" / "all.jsonl", ({"id": key, "contents": text} for key, text in texts.items()))
    index_texts(tmp_path / "documents", tmp_path / "index", count=4)
    queries = {"1": "otter rivers", "2": "stones", "3": "the", "4": "lynx"}
    with BM25Index(tmp_path / "index") as index:
        found = index.search_batch(queries, 10, threads=2)
        assert len(index) == 4
    # Three documents have terms: the fourth is no document of the field's statistics.
    count, mean = 3, (3 + 2 + 4) / 3

    def weight(documents: int, frequency: int, length: int) -> float:
        idf = log(1 + (count - documents + 0.5) / (documents + 0.5))
        return idf * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / mean))

    assert [(hit.document_id, pytest.approx(hit.score, abs=1e-4)) for hit in found["1"]] == [
        ("d1", weight(1, 2, 3) + weight(2, 1, 3)), ("d2", weight(2, 1, 2)),
    ]  # fmt: skip
    assert [(hit.document_id, pytest.approx(hit.score, abs=1e-4)) for hit in found["2"]] == [
        ("d3", weight(2, 3, 4)), ("d2", weight(2, 1, 2)),
    ]  # fmt: skip
    assert found["3"] == found["4"] == []


def _write_lines(path: Path, records: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_an_index_that_is_there_is_searched_and_gives_the_texts(
    folder: Path, tmp_path: Path, mined: tuple[mining.MineReport, dict[str, Example]]
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    lines = (folder / "corpus.jsonl").read_text("utf-8").replace('"_id"', '"id"')
    (documents / "corpus.jsonl").write_text(lines.replace('"title": "", "text"', '"contents"'), encoding="utf-8")
    arguments = ["--collection", "JsonCollection", "--input", str(documents), "--threads", "1"]
    for name, kept in (("with", ["--storeRaw"]), ("without", [])):
        run_indexer([*arguments, "--index", str(tmp_path / name), *kept], tmp_path / name, None)
    known = {"negatives": 30, "hits": 50, "corpus": None}
    mine(_config(folder, "from-index.jsonl", index=str(tmp_path / "with"), **known))
    found = _by_id(folder / "from-index.jsonl")
    for name, example in mined[1].items():
        one, other = (set(map(text_key, each.negatives)) for each in (found[name], example))
        assert one == other, name
    with pytest.raises(DataError, match=r"was found, and .*without has no text of it; name the corpus"):
        mine(_config(folder, "no-texts.jsonl", index=str(tmp_path / "without"), **known))
    with pytest.raises(ResourceError, match="no-such-index: no such index: no file, and Pyserini"):
        mine(_config(folder, "no-index.jsonl", index="no-such-index"))


def test_rankings_are_taken_from_a_run_file(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.txt"
    run.write_text(
        "heron-3 Q0 lynx-2 2 1.5 x\nheron-3 Q0 raven-1 1 2.5 x\nheron-3 Q0 heron-3 3 1.0 x\notter-0 Q0 ibex-1 1 3 x\n",
        encoding="utf-8",
    )
    report = mine(_config(folder, "from-run.jsonl", run=str(run), negatives=3))
    found = _by_id(folder / "from-run.jsonl")
    assert set(found["heron-3"].negative_ids) == {"lynx-2", "raven-1"}
    assert found["otter-0"].negatives == (CORPUS["ibex-1"],)
    assert report.without_negatives == report.examples - 2
    run.write_text("heron-3 Q0 nowhere 1 2.5 x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"document 'nowhere' was found, and .*corpus.jsonl has no text of it"):
        mine(_config(folder, "unknown.jsonl", run=str(run)))
    with pytest.raises(UsageError, match="nothing is searched, so encoder"):
        mine(_config(folder, "both.jsonl", run=str(run), encoder="csplade"))
