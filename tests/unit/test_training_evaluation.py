"""A model in training is measured on the vectors that an index of it would hold."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.results import evaluation, progress
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet
from pyserini_llm_sparse.training.results.evaluation import evaluate, parse_measures
from pyserini_llm_sparse.training.retriever.building import build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.model import RetrievalModel
from tests.checkpoints import checkpoint, sentences
from tests.training_runs import in_two_processes, write_beir

pytest.importorskip("ir_measures")

TWO_PROCESSES = """
import json, sys
from accelerate import Accelerator
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.results.development_set import DevelopmentSet
from pyserini_llm_sparse.training.results.evaluation import evaluate
from pyserini_llm_sparse.training.retriever.building import build_model, starting_checkpoint

config = RetrieveConfig.model_validate_json(sys.argv[1])
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
checkpoint = starting_checkpoint(config)
model = accelerator.prepare(build_model(config, checkpoint))
tokenization = Tokenization(checkpoint.tokenizer, config.encoding_spec(), checkpoint.vocabulary_size)
found = evaluate(model, tokenization, DevelopmentSet.load(config.dev[0]), "AP", 7, accelerator, own_terms_only=True)
print(json.dumps(found), file=open(f"{sys.argv[2]}.{accelerator.process_index}", "w"))
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_beir(tmp_path_factory.mktemp("beir") / "collection")


def a_config(beir: Path, **fields: Any) -> RetrieveConfig:
    attention = fields.setdefault("attention", "causal")
    settings = {
        "model": str(checkpoint(f"llama_{attention}")),
        "train": ("x.jsonl",),
        "output": "/nowhere",
        "dev": beir,
    }
    return RetrieveConfig(**{**settings, "query_max_length": 16, "document_max_length": 32, **fields})


def a_model(config: RetrieveConfig) -> tuple[RetrievalModel, Tokenization]:
    found = starting_checkpoint(config)
    return build_model(config, found), Tokenization(found.tokenizer, config.encoding_spec(), found.vocabulary_size)


def naive_measures(queries: np.ndarray, documents: np.ndarray, development: DevelopmentSet) -> dict[str, float]:
    """nDCG@10, RR@10 and R@100 from their definitions, over score lists with equal scores ordered by id."""
    gains, reciprocal, recall = [], [], []
    for vector, query_id in zip(queries, development.query_ids, strict=True):
        scores = documents.astype(np.float64) @ vector.astype(np.float64)
        ranked = sorted(zip(-scores, development.document_ids, strict=True))
        found = [document for score, document in ranked if score < 0]
        grades = development.qrels[query_id]
        best = sorted(grades.values(), reverse=True)
        gained = sum(grades.get(name, 0) / math.log2(place + 2) for place, name in enumerate(found[:10]))
        gains.append(gained / sum(grade / math.log2(place + 2) for place, grade in enumerate(best[:10])))
        relevant = {name for name, grade in grades.items() if grade > 0}
        places = [place for place, name in enumerate(found[:10]) if name in relevant]
        reciprocal.append(1 / (places[0] + 1) if places else 0.0)
        recall.append(len(relevant & set(found[:100])) / len(relevant))
    return {"nDCG@10": np.mean(gains), "RR@10": np.mean(reciprocal), "R@100": np.mean(recall)}


def test_title_and_text_are_joined_and_only_queries_with_a_relevant_document_stay(beir: Path) -> None:
    development = DevelopmentSet.load(beir)
    assert development.documents[0] == " ".join(sentences()[0].split()[1:])
    assert len(development.documents) == 60
    assert len(development.queries) == 20
    assert set(development.qrels) == set(development.query_ids)
    assert development.qrels["q0"] == {"d0": 2, "d1": 1, "d2": 0}


def test_fewer_queries_are_spread_over_all_of_them_and_no_document_is_left_out(beir: Path) -> None:
    development = DevelopmentSet.load(beir, "dev", 5)
    assert development.query_ids == ("q0", "q8", "q16", "q24", "q32")
    assert len(development.documents) == 60


def test_a_missing_split_names_those_that_exist(beir: Path) -> None:
    with pytest.raises(ResourceError, match=r"splits found: dev"):
        DevelopmentSet.load(beir, "test")


def test_a_bad_judgement_is_named_by_file_and_line(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "bad")
    path = folder / "qrels" / "dev.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\tyes\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"dev\.tsv:3: not a judgement"):
        DevelopmentSet.load(folder)


def test_a_collection_whose_judgements_fit_nothing_is_refused(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "other")
    (folder / "qrels" / "dev.tsv").write_text("q0 0 elsewhere 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no query .* has a relevant document"):
        DevelopmentSet.load(folder)


def test_documents_without_text_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_beir(tmp_path / "empty")
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"_id": "blank", "title": " ", "text": ""}\n')
    with caplog.at_level(logging.WARNING, "pyserini_llm_sparse"):
        development = DevelopmentSet.load(folder)
    assert "blank" not in development.document_ids
    assert "1 documents without text" in caplog.text


@pytest.mark.parametrize("attention", ["causal", "echo", "bidirectional"])
def test_measures_are_those_of_the_integer_impacts_that_encode_writes(beir: Path, attention: str) -> None:
    config = a_config(beir, attention=attention, query_top_k=12, document_top_k=20)
    development = DevelopmentSet.load(beir)
    found = evaluate(*a_model(config), development, batch_size=7)

    encoder = SparseEncoder.load(config.model, query_top_k=12, document_top_k=20, device="cpu")
    spec = encoder.spec
    queries, documents = (
        vectors.impacts(spec.impact_factor, spec.impact_maximum).matrix.toarray()
        for vectors in (encoder.encode_queries(development.queries), encoder.encode_documents(development.documents))
    )
    expected = naive_measures(queries, documents, development)
    assert 0 < expected["nDCG@10"] < 1
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["query_active_terms"] == pytest.approx((queries > 0).sum(1).mean())
    assert found["document_active_terms"] == pytest.approx((documents > 0).sum(1).mean())


def test_a_coarse_impact_factor_counts_as_in_the_index(beir: Path) -> None:
    config = a_config(beir, impact_factor=2.0)
    development = DevelopmentSet.load(beir)
    found = evaluate(*a_model(config), development)
    encoder = SparseEncoder.load(config.model, impact_factor=2.0, device="cpu")
    queries = encoder.encode_queries(development.queries).impacts(2.0, 65535).matrix.toarray()
    documents = encoder.encode_documents(development.documents).impacts(2.0, 65535).matrix.toarray()
    assert found["nDCG@10"] == pytest.approx(naive_measures(queries, documents, development)["nDCG@10"], abs=1e-9)
    assert found["document_active_terms"] == pytest.approx((documents > 0).sum(1).mean())


def test_own_terms_leave_out_what_the_texts_do_not_contain(beir: Path) -> None:
    config = a_config(beir, query_prefix="wind ", pooled_span="text")
    model, tokenization = a_model(config)
    development = DevelopmentSet.load(beir)
    found = evaluate(model, tokenization, development, own_terms_only=True)

    def own(texts: tuple[str, ...], side: Any) -> np.ndarray:
        tokenised = tokenization.token_ids(texts, side)
        batch = tokenization.batch(tokenised)
        with torch.no_grad():
            vectors = model(**{f"{side}_{name}": tensor for name, tensor in batch._asdict().items()})
        weights = np.rint(vectors[side == "document"].numpy().astype(np.float64) * 100)
        mask = np.zeros_like(weights)
        for row, (ids, pool) in enumerate(tokenised):
            mask[row, ids[pool.start : pool.stop]] = 1
        return np.asarray(weights * mask)

    expected = naive_measures(own(development.queries, "query"), own(development.documents, "document"), development)
    assert {name: found[f"{name} own terms"] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert found["R@100 own terms"] <= found["R@100"]


def test_a_dense_model_ranks_all_documents_by_cosine(beir: Path) -> None:
    config = a_config(beir, representation="dense", dense_pooling="mean")
    model, tokenization = a_model(config)
    development = DevelopmentSet.load(beir)
    found = evaluate(model, tokenization, development, "R@60", batch_size=8)
    assert set(found) == {"R@60", "nDCG@10", "RR@10", "R@100"}
    assert found["R@60"] == 1  # of 60 documents, all are retrieved

    with torch.no_grad():
        vectors = [
            model(**{f"{side}_{name}": tensor for name, tensor in batch._asdict().items()})[side == "document"].numpy()
            for side, texts in (("query", development.queries), ("document", development.documents))
            for batch in [tokenization.batch(tokenization.token_ids(texts, side))]  # type: ignore[arg-type]
        ]
    queries, documents = vectors[0], vectors[1]
    shifted = np.hstack(
        [documents, np.ones((len(documents), 1))]
    )  # cosines can be negative; the reference wants above 0
    expected = naive_measures(np.hstack([queries, np.full((len(queries), 1), 2.0)]), shifted, development)
    assert found["nDCG@10"] == pytest.approx(expected["nDCG@10"], abs=1e-6)


def test_inference_free_queries_are_weighed_from_the_table(beir: Path) -> None:
    config = a_config(
        beir, model=str(checkpoint("inference_free")), attention="bidirectional", query_encoder="inference-free"
    )
    development = DevelopmentSet.load(beir)
    found = evaluate(*a_model(config), development)
    encoder = SparseEncoder.load(config.model, query_term_counts=config.query_term_counts, device="cpu")
    queries = encoder.encode_queries(development.queries).impacts(100.0, 65535).matrix.toarray()
    documents = encoder.encode_documents(development.documents).impacts(100.0, 65535).matrix.toarray()
    expected = naive_measures(queries, documents, development)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_the_wanted_measure_comes_under_the_name_that_it_was_asked_for(beir: Path) -> None:
    found = evaluate(*a_model(a_config(beir)), DevelopmentSet.load(beir), "MRR@10")
    assert found["MRR@10"] == found["RR@10"]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(beir: Path, training: bool) -> None:
    model, tokenization = a_model(a_config(beir))
    model.train(training)
    evaluate(model, tokenization, DevelopmentSet.load(beir, queries=2))
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_unknown_measure_is_refused_before_training() -> None:
    with pytest.raises(UsageError, match=r"dev_metric: ndcg@ten: ir_measures has no such measure"):
        parse_measures("ndcg@ten")


def test_a_model_that_has_diverged_is_no_result(beir: Path) -> None:
    model, tokenization = a_model(a_config(beir))
    with torch.no_grad():
        model.backbone.head_weight[5] = float("nan")
    with pytest.raises(RunError, match="not finite"):
        evaluate(model, tokenization, DevelopmentSet.load(beir, queries=2))


def test_depth_cuts_a_ranking_with_equal_scores_by_id(beir: Path) -> None:
    development = DevelopmentSet("x", ("b", "a", "c"), ("1", "2", "3"), ("q",), ("1",), {"q": {"a": 1}})
    queries = evaluation.SparseVectors.from_dense([[1.0, 0.0]])
    documents = evaluation.SparseVectors.from_dense([[2.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    assert list(evaluation._rankings(queries, documents, development, [0])) == [["a", "b"]]


def test_two_processes_measure_the_same_as_one(beir: Path, tmp_path: Path) -> None:
    config = a_config(beir)
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    in_two_processes(str(script), config.model_dump_json(), str(tmp_path / "found"), ACCELERATE_USE_CPU="true")
    expected = evaluate(*a_model(config), DevelopmentSet.load(beir), "AP", 7, own_terms_only=True)
    for rank in range(2):
        found = json.loads((tmp_path / f"found.{rank}").read_text(encoding="utf-8"))
        assert found == pytest.approx(expected, abs=1e-9)


def test_several_sets_count_as_their_mean_and_keep_their_queries_apart(beir: Path) -> None:
    model, tokenization = a_model(a_config(beir))
    one, other = (
        evaluate(model, tokenization, DevelopmentSet.load(beir, queries=queries), "AP") for queries in (4, 16)
    )
    means = evaluation.mean_measures({"a dev": one, "b dev": other})
    assert means["AP"] == pytest.approx((one["AP"] + other["AP"]) / 2)
    assert (means["AP a dev"], means["AP b dev"]) == (one["AP"], other["AP"])
    assert [len(values) for values in means.by_query["AP"]] == [4, 16]
    assert [values.mean() for values in means.by_query["AP"]] == pytest.approx([one["AP"], other["AP"]])
    assert evaluation.mean_measures({"a dev": one}) == one


def test_a_change_has_the_interval_of_a_paired_bootstrap() -> None:
    chance = np.random.default_rng(3)
    before = [chance.random(400), chance.random(100)]
    after = [before[0] + 0.05 + 0.1 * chance.standard_normal(400), before[1] - 0.01 * chance.random(100)]
    (change,) = progress.changes({"AP": before}, {"AP": after})
    assert change.queries == 500
    differences = [new - old for old, new in zip(before, after, strict=True)]
    assert change.after - change.before == pytest.approx(sum(one.mean() for one in differences) / 2)
    spread = math.sqrt(sum(one.var() / len(one) for one in differences)) / 2
    assert change.high is not None and change.low is not None
    assert change.high - change.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert not change.is_loss
    (loss,) = progress.changes({"AP": before[1:]}, {"AP": after[1:]})
    assert loss.is_loss and loss.shown().startswith(f"AP {loss.after:.4f}, {loss.before:.4f} before: -0.00")
