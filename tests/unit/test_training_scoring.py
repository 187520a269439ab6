"""Teacher scores equal those of each pair alone; a run goes on to the same bytes; what is no teacher is refused."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.training.config.fields import ScoreConfig
from pyserini_llm_sparse.training.data.examples import Example, example_line
from pyserini_llm_sparse.training.data.sources import read_examples
from pyserini_llm_sparse.training.preparation import scoring, teachers
from pyserini_llm_sparse.training.preparation.scoring import score
from tests.checkpoints import change_json, checkpoint, sentences, transformers_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eleven examples: one without a negative, one with a long document, and documents that occur again."""
    texts = sentences()
    examples = [
        Example(
            query=texts[number],
            positives=(texts[number + 20], *texts[40 : 40 + number % 2]),
            negatives=tuple(texts[60 : 60 + number % 4]),
            positive_scores=(9.0,) * (1 + number % 2),
            query_id=f"q{number}",
        )
        for number in range(10)
    ]
    examples.append(Example(query="Köln", positives=(" ".join(texts[:40]),)))
    path = tmp_path_factory.mktemp("train") / "train.jsonl"
    path.write_bytes(b"".join(map(example_line, examples)))
    return str(path)


def _bert(kind: type[Any], folder: Path, **settings: Any) -> Path:
    tokenizer = transformers_tokenizer("word_piece")
    tokenizer.model_max_length = 64
    # Without BERT's own post-processing a tokenizer adds neither [CLS] nor [SEP].
    from tokenizers.processors import BertProcessing

    ids = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.5, **SMALL, **settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As cross-encoder/ms-marco-MiniLM-L6-v2 is published; its configuration asks for a sigmoid."""
    folder = _bert(transformers.BertForSequenceClassification, tmp_path_factory.mktemp("cross-encoder"), num_labels=1)
    change_json(
        folder / "config.json",
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "4.1.0"},
    )
    return folder


@pytest.fixture(scope="module")
def bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As sentence-transformers/all-MiniLM-L6-v2 is published, but for a prompt in front of queries."""
    folder = _bert(transformers.BertModel, tmp_path_factory.mktemp("bi-encoder"))
    types = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "",
         "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(types)
    ]  # fmt: skip
    for number, kind in enumerate(types[1:], start=1):
        (folder / f"{number}_{kind}").mkdir()
    pooling = {"word_embedding_dimension": SMALL["hidden_size"], "pooling_mode_mean_tokens": True}
    for name, content in {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 48, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
        "config_sentence_transformers.json": {"prompts": {"query": "Wind: "}, "similarity_fn_name": "cosine"},
    }.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _naive_cross_encoder(folder: Path) -> Callable[[str, str], float]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def one(query: str, document: str) -> float:
        with torch.inference_mode():
            return model(**tokenizer(query, document, truncation=True, return_tensors="pt")).logits.item()

    return one


def _naive_bi_encoder(folder: Path) -> Callable[[str, str], float]:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def embed(text: str) -> torch.Tensor:
        with torch.inference_mode():
            batch = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
            return model(**batch).last_hidden_state[0].mean(0)

    def one(query: str, document: str) -> float:
        return torch.cosine_similarity(embed(f"Wind: {query}"), embed(document), dim=0).item()

    return one


def _naive_sparse(folder: Path) -> Callable[[str, str], float]:
    encoder = SparseEncoder.load(str(folder))

    def one(query: str, document: str) -> float:
        left, right = encoder.encode_queries([query]), encoder.encode_documents([document])
        return float(np.dot(left.matrix.toarray()[0].astype(float), right.matrix.toarray()[0].astype(float)))

    return one


@pytest.mark.parametrize("kind", ["cross-encoder", "sentence-transformers", "sparse"])
def test_scores_are_those_of_each_pair_alone(
    kind: Any, train: str, cross_encoder: Path, bi_encoder: Path, tmp_path: Path
) -> None:
    folder, naive = {
        "cross-encoder": (cross_encoder, _naive_cross_encoder),
        "sentence-transformers": (bi_encoder, _naive_bi_encoder),
        "sparse": (checkpoint("llama_causal"), _naive_sparse),
    }[kind]
    output = tmp_path / "scored.jsonl"
    config = ScoreConfig(train=(train,), output=output, teacher=str(folder), kind=kind, batch_size=5, scale=3)
    report = score(config)
    before, after = list(read_examples(train)), list(read_examples(str(output)))
    one = naive(folder)
    expected, found = [], []
    for old, new in zip(before, after, strict=True):
        assert (old.query, old.positives, old.negatives, old.query_id) == (
            new.query, new.positives, new.negatives, new.query_id,
        )  # fmt: skip
        expected += [3 * one(old.query, text) for text in (*old.positives, *old.negatives)]
        found += [*new.positive_scores, *new.negative_scores]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.std(expected) > 0.01, "the teacher tells nothing apart, so the comparison would prove nothing"
    assert (report.examples, report.scores) == (11, len(expected))


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    train: str, bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNKS", dict.fromkeys(scoring.CHUNKS, 3))
    config = ScoreConfig(
        train=(train,), output=tmp_path / "whole.jsonl.gz", teacher=str(bi_encoder), kind="sentence-transformers"
    )
    score(config)

    done = 0

    def interrupt(count: int, now: bool) -> None:
        nonlocal done
        done += count
        if done == 6:
            raise KeyboardInterrupt

    resumed = config.model_copy(update={"output": tmp_path / "resumed.jsonl.gz"})
    with pytest.raises(KeyboardInterrupt):
        score(resumed, progress=interrupt)
    assert not resumed.output.exists()
    calls: list[tuple[int, bool]] = []
    report = score(resumed, progress=lambda count, now: calls.append((count, now)))
    assert calls == [(3, False), (3, False), (3, True), (2, True)]
    assert report.examples == 11 and report.scored < report.scores
    assert f"11 examples with {report.scores} scores, {report.scored} of them computed now" in report.summary()
    assert resumed.output.read_bytes() == config.output.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.jsonl.gz", "whole.jsonl.gz"]


@pytest.mark.parametrize("damaged", ["chunk-000001.counts.json", "chunk-000001.jsonl"])
def test_a_damaged_chunk_is_made_again_and_no_other(
    damaged: str, train: str, bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNKS", dict.fromkeys(scoring.CHUNKS, 3))
    config = ScoreConfig(
        train=(train,), output=tmp_path / "whole.jsonl", teacher=str(bi_encoder), kind="sentence-transformers"
    )
    score(config)

    def interrupt(count: int, now: bool) -> None:
        if len(list((tmp_path / "resumed.jsonl.work").glob("*.counts.json"))) == 3:
            raise KeyboardInterrupt

    resumed = config.model_copy(update={"output": tmp_path / "resumed.jsonl"})
    with pytest.raises(KeyboardInterrupt):
        score(resumed, progress=interrupt)
    path = tmp_path / "resumed.jsonl.work" / damaged
    path.write_bytes(b"") if damaged.endswith(".json") else path.unlink()
    calls: list[tuple[int, bool]] = []
    score(resumed, progress=lambda count, now: calls.append((count, now)))
    assert calls == [(3, False), (3, True), (3, False), (2, True)]
    assert resumed.output.read_bytes() == config.output.read_bytes()


def test_unfinished_work_of_other_settings_is_neither_continued_nor_lost(
    train: str, bi_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNKS", dict.fromkeys(scoring.CHUNKS, 3))
    config = ScoreConfig(
        train=(train,), output=tmp_path / "scored.jsonl", teacher=str(bi_encoder), kind="sentence-transformers"
    )

    def interrupt(count: int, now: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(config, progress=interrupt)
    other = config.model_copy(update={"scale": 20.0})
    with pytest.raises(DataError, match=r"begun with other settings or data: scale is 20\.0 here, 1\.0 there"):
        score(other)
    score(other, overwrite=True)
    scaled = next(read_examples(str(config.output))).positive_scores
    score(config, overwrite=True)
    plain = next(read_examples(str(config.output))).positive_scores
    np.testing.assert_allclose(scaled, np.multiply(plain, 20), atol=2e-5)


def test_two_runs_do_not_write_one_output(train: str, bi_encoder: Path, tmp_path: Path) -> None:
    config = ScoreConfig(
        train=(train,), output=tmp_path / "scored.jsonl", teacher=str(bi_encoder), kind="sentence-transformers"
    )
    with pytest.raises(RunError, match="another process is writing it"):
        score(config, progress=lambda count, now: score(config) and None)


def test_texts_are_cut_at_the_length_that_is_asked_for(train: str, cross_encoder: Path, tmp_path: Path) -> None:
    def long_document(**settings: Any) -> float:
        output = tmp_path / "scored.jsonl"
        score(ScoreConfig(train=(train,), output=output, teacher=str(cross_encoder), **settings), overwrite=True)
        return list(read_examples(str(output)))[-1].positive_scores[0]

    tokenizer = transformers.AutoTokenizer.from_pretrained(cross_encoder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    example = list(read_examples(train))[-1]
    with torch.inference_mode():
        short = tokenizer(example.query, example.positives[0], truncation=True, max_length=20, return_tensors="pt")
        expected = model(**short).logits.item()
    assert long_document(max_length=20) == pytest.approx(expected, abs=1e-5)
    assert long_document() != pytest.approx(expected, abs=1e-3)
    with pytest.raises(UsageError, match=r"max_length: 65: .* reads at most 64 tokens"):
        long_document(max_length=65)


def test_what_cannot_teach_is_refused(train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(teacher: Path, **settings: Any) -> None:
        score(ScoreConfig(train=(train,), output=tmp_path / "scored.jsonl", teacher=str(teacher), **settings))

    with pytest.raises(DataError, match="no cross-encoder: its architecture is BertForMaskedLM"):
        run(checkpoint("masked_language_model"))
    two = _bert(transformers.BertForSequenceClassification, tmp_path / "two", num_labels=2)
    with pytest.raises(DataError, match="scores 2 classes"):
        run(two)
    for kind in ("cross-encoder", "sentence-transformers", "sparse"):
        with pytest.raises(ResourceError, match="nowhere"):
            run(tmp_path / "nowhere", kind=kind)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    for kind in ("cross-encoder", "sentence-transformers"):
        with pytest.raises(PrerequisiteError, match=r"pip install 'pyserini-llm-sparse\[train\]'"):
            run(two, kind=kind)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_an_output_is_refused_before_any_work(train: str, tmp_path: Path) -> None:
    def run(output: Path, train: str = train) -> None:
        score(ScoreConfig(train=(train,), output=output, teacher=str(checkpoint("llama_causal")), kind="sparse"))

    taken = tmp_path / "taken.jsonl"
    taken.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        run(taken)
    assert taken.read_text(encoding="utf-8") == "mine"
    with pytest.raises(UsageError, match=r"ends in \.jsonl or \.jsonl\.gz"):
        run(tmp_path / "scored")
    with pytest.raises(ResourceError, match="there is no folder"):
        run(tmp_path / "nowhere" / "scored.jsonl")
    (tmp_path / "new.jsonl.work").mkdir()
    (tmp_path / "new.jsonl.work" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds something else: there are files but no run"):
        run(tmp_path / "new.jsonl")
    assert (tmp_path / "new.jsonl.work" / "thesis.tex").exists()
    empty = tmp_path / "empty.jsonl.gz"
    empty.write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="no examples"):
        run(tmp_path / "scored.jsonl", train=str(empty))
    # Nothing was done for it, so a run with other data need not ask to overwrite anything.
    run(tmp_path / "scored.jsonl")


# scores from files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_ids(tmp_path: Path) -> str:
    """Two examples whose queries and documents have ids."""
    one = Example("first", ("a",), ("b", "c"), query_id="1", positive_ids=("A",), negative_ids=("B", "C"))
    two = Example("second", ("d",), ("e",), query_id="2", positive_ids=("D",), negative_ids=("E",))
    path = tmp_path / "examples.jsonl"
    path.write_bytes(example_line(one) + example_line(two))
    return str(path)


RUN = "1 Q0 A 1 3 x\n1 Q0 B 2 1 x\n1 Q0 C 3 2.5 x\n2 Q0 E 1 0.5 x\n"


def _files(folder: Path) -> dict[str, Path]:
    """The same scores in each form; in all of them the second query's positive has none."""
    rows = [line.split() for line in RUN.splitlines()]
    pairs = [{"query_id": row[0], "docid": row[2], "score": float(row[4])} for row in rows]
    first = Example("first", ("a",), ("b", "c"), (3.0,), (1.0, 2.5))
    second = Example("second", ("elsewhere",), ("e",), (9.0,), (0.5,))
    contents = {
        "__rankzephyr-colbert-10000-sampled-100__msmarco-passage-train-judged.run": RUN.encode(),
        "pairs.jsonl": "".join(json.dumps(pair) + "\n" for pair in pairs).encode(),
        "examples.jsonl": example_line(first) + example_line(second),
    }
    (folder / "scores").mkdir()
    for name, content in contents.items():
        (folder / "scores" / name).write_bytes(content)
    return {name: folder / "scores" / name for name in contents}


def test_scores_come_from_a_run_pairs_or_examples(with_ids: str, tmp_path: Path) -> None:
    for name, path in _files(tmp_path).items():
        output = tmp_path / f"from-{path.stem}.jsonl"
        report = score(ScoreConfig(train=(with_ids,), teacher=path, output=output, scale=2))
        (found,) = read_examples(str(output))
        assert (found.positive_scores, found.negative_scores) == ((6.0,), (2.0, 5.0)), name
        assert (report.examples, report.scores, report.left_out, report.without_positive) == (1, 3, 1, 1)
        assert "1 documents have no score and are left out, with 1 examples without a positive" in report.summary()


def test_several_teachers_are_averaged_over_the_range_of_each(with_ids: str, tmp_path: Path) -> None:
    other = tmp_path / "other.run"
    other.write_text("1 Q0 A 1 90 x\n1 Q0 B 2 80 x\n1 Q0 C 3 70 x\n", encoding="utf-8")
    several = (str(_files(tmp_path)["pairs.jsonl"]), str(other))
    output = tmp_path / "mean.jsonl"
    score(ScoreConfig(train=(with_ids,), teacher=several, output=output, scale=10))
    (found,) = read_examples(str(output))
    # 3, 1, 2.5 are 1, 0, .75 of their range; 90, 80, 70 are 1, .5, 0 of theirs.
    assert (found.positive_scores, found.negative_scores) == ((10.0,), (2.5, 3.75))


def test_a_teacher_may_say_its_own_kind() -> None:
    config = ScoreConfig(train=("t",), output=Path("o"), teacher=("a/b", "sparse=csplade", "x=y"), scale=2)
    assert [(one.kind, one.name) for one in teachers.each_teacher(config)] == [
        ("cross-encoder", "a/b"), ("sparse", "csplade"), ("cross-encoder", "x=y")
    ]  # fmt: skip


def test_scores_that_cannot_be_used_are_named(with_ids: str, train: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"query_id": "1", "docid": "A", "score": 1}\n{"query_id": "1", "score": 2}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"broken.jsonl:2: no score: query_id, docid and a number"):
        score(ScoreConfig(train=(with_ids,), teacher=path, output=tmp_path / "one.jsonl"))
    run = tmp_path / "scores.run"
    run.write_text(RUN, encoding="utf-8")
    with pytest.raises(DataError, match=r"train.jsonl:1: no ids of its query and documents"):
        score(ScoreConfig(train=(train,), teacher=run, output=tmp_path / "two.jsonl"))
