"""From a language model to a search with unmodified Pyserini commands: adapt, mine, score, retrieve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.records import Document
from tests.checkpoints import checkpoint

pytestmark = pytest.mark.end_to_end

MODULE = "pyserini_llm_sparse"


@pytest.fixture(scope="module")
def folder(pyserini, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def collection(folder: Path, root: Path) -> Path:
    """The demo collection as a BEIR directory: 176 passages, and each query with what is relevant to it."""
    beir = folder / "demo"
    (beir / "qrels").mkdir(parents=True)
    documents = [record for record in read_corpus(root / "examples/demo/corpus") if isinstance(record, Document)]
    with (beir / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"_id": one.id, "text": one.text}) + "\n" for one in documents)
    topics = [line.split("\t") for line in (root / "examples/demo/queries.tsv").read_text("utf-8").splitlines()]
    with (beir / "queries.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"_id": number, "text": text}) + "\n" for number, text in topics)
    judged = [line.split() for line in (root / "examples/demo/qrels.txt").read_text("utf-8").splitlines()]
    rows = [
        "query-id\tcorpus-id\tscore",
        *("\t".join((query, document, grade)) for query, _, document, grade in judged),
    ]
    (beir / "qrels" / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return beir


@pytest.fixture(scope="module")
def adapted(pyserini, folder: Path, collection: Path) -> Path:
    pyserini.module(
        MODULE, "train", "adapt", "--model", checkpoint("llama_causal"), "--attention", "causal", "--texts", collection,
        "--sequence-length", 64, "--held-out-texts", 4, "--output", folder / "adapted", "--trainer", "max_steps=6",
        "--trainer", "per_device_train_batch_size=8", "--trainer", "learning_rate=1e-3", "--trainer", "eval_steps=3",
    )  # fmt: skip
    return folder / "adapted"


@pytest.fixture(scope="module")
def scored(pyserini, folder: Path, collection: Path) -> Path:
    """Training examples with negatives that BM25 ranks high, and the embedded model's scores."""
    mined, scored = folder / "mined.jsonl", folder / "scored.jsonl"
    pyserini.module(MODULE, "train", "mine", "--train", collection, "--corpus", collection, "--negatives", 3,
                    "--output", mined)  # fmt: skip
    pyserini.module(MODULE, "train", "score", "--train", mined, "--teacher", "csplade", "--kind", "sparse",
                    "--output", scored)  # fmt: skip
    return scored


@pytest.fixture(scope="module")
def run_file(folder: Path, adapted: Path, scored: Path, collection: Path) -> Path:
    """A run with everything: LoRA, negatives, a teacher, gradient caching, regularisers, an evaluation."""
    path = folder / "retrieve.yaml"
    path.write_text(
        f"""
model: {adapted}
attention: causal
train: {scored}
output: {folder / "trained"}
lora_rank: 4
train_head: true
negatives: 2
objective: contrastive+distillation
gradient_cache_size: 16
query_regulariser_weight: 1e-4
document_regulariser_weight: 1e-4
stop_on_collapse: false
document_max_length: 64
dev: {collection}
dev_split: train
trainer:
  per_device_train_batch_size: 8
  max_steps: 8
  learning_rate: 1e-3
  logging_steps: 2
  eval_steps: 4
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def trained(pyserini, folder: Path, run_file: Path) -> Path:
    pyserini.module(MODULE, "train", "retrieve", run_file)
    return folder / "trained"


def test_the_result_is_an_encoder_for_unmodified_commands(pyserini, trained: Path, folder: Path, root: Path) -> None:
    vectors, index, run = folder / "vectors", folder / "index", folder / "run.txt"
    pyserini.module(
        "pyserini.encode", "input", "--corpus", root / "examples/demo/corpus",
        "output", "--embeddings", vectors, "encoder", "--encoder", trained, "--device", "cpu",
    )  # fmt: skip
    pyserini.module(
        "pyserini.index.lucene", "--collection", "JsonVectorCollection", "--input", vectors, "--index", index,
        "--generator", "DefaultLuceneDocumentGenerator", "--threads", 1, "--impact", "--pretokenized",
    )  # fmt: skip
    pyserini.module(
        "pyserini.search.lucene", "--impact", "--encoder", trained, "--index", index,
        "--topics", root / "examples/demo/queries.tsv", "--output", run, "--hits", 10,
    )  # fmt: skip
    assert len(run.read_text(encoding="utf-8").splitlines()) >= 40


def test_the_result_says_how_it_was_made(trained: Path, run_file: Path) -> None:
    about = json.loads((trained / "training/environment.json").read_text(encoding="utf-8"))
    assert about["optimiser steps"] == 8
    assert 0 <= about["measures"]["nDCG@10 own terms"] <= 1
    log = [json.loads(line) for line in (trained / "training/metrics.jsonl").read_text("utf-8").splitlines()]
    logged = next(line for line in log if line.get("step") == 2)
    wanted = {"contrastive", "distillation", "query_active_terms", "document_cosine", "dead_documents"}
    assert wanted <= set(logged)
    assert (trained / "training/training.png").stat().st_size > 10_000
    assert "nDCG@10" in (trained / "README.md").read_text(encoding="utf-8")


def test_training_changed_the_vectors(trained: Path, adapted: Path) -> None:
    before = SparseEncoder.load(f"csplade:{adapted},attention=causal,document_max_length=64")
    after = SparseEncoder.load(f"csplade:{trained}")
    texts = ["Vaccines train the immune system.", "A bridge over a river."]
    difference = before.encode_documents(texts).matrix - after.encode_documents(texts).matrix
    assert abs(difference).max() > 1e-3


def test_a_killed_run_goes_on_and_ends_as_it_would_have(pyserini, trained: Path, run_file: Path, folder: Path) -> None:
    output = folder / "again"
    command = [sys.executable, "-m", MODULE, "train", "retrieve", str(run_file), "--output", str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    first = folder / "again.run/checkpoint-4/trainer_state.json"
    deadline = time.monotonic() + 300
    while (
        not (first.exists() and first.read_bytes().endswith(b"}\n"))
        and running.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert first.exists()
    assert not output.exists()
    # What a kill in the middle of writing leaves.
    (folder / "again.run/checkpoint-6").mkdir(exist_ok=True)
    (folder / "again.run/checkpoint-6/trainer_state.json").write_bytes(b"")
    resumed = pyserini.module(MODULE, "train", "retrieve", run_file, "--output", output)
    assert "going on from checkpoint-4" in resumed.stderr
    assert (output / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_result_is_not_replaced_unless_asked(pyserini, trained: Path, run_file: Path) -> None:
    refused = pyserini.module(MODULE, "train", "retrieve", run_file, check=False)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_a_collapse_stops_the_run_and_says_what_to_change(pyserini, folder: Path, run_file: Path) -> None:
    died = pyserini.module(
        MODULE, "train", "retrieve", run_file, "--output", folder / "dead", "--document-regulariser-weight", "1e6",
        "--regulariser-ramp", "0", "--stop-on-collapse", "true", "--trainer", "max_steps=60",
        "--trainer", "logging_steps=1", "--trainer", "eval_steps=60", "--trainer", "learning_rate=0.1", check=False,
    )  # fmt: skip
    assert died.returncode == 6
    assert "document_regulariser_weight" in died.stderr
    assert not (folder / "dead").exists()
