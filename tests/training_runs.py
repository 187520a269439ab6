"""Small training runs, in this process or in two that talk over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.arguments import training_arguments
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.batching import ExampleDataset, RetrievalCollator
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.loop.trainer import RetrievalTrainer
from pyserini_llm_sparse.training.retriever.building import build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.model import RetrievalModel
from tests.checkpoints import checkpoint, sentences

ROOT = Path(__file__).resolve().parent.parent


def examples(number: int = 32) -> list[Example]:
    """Queries, positives and two negatives each, with texts of different lengths.

    The negatives of each are those of the next as well; half of the queries have the next but one's as further
    positives.
    """
    texts = list(dict.fromkeys(sentences()))
    long = [" ".join(texts[place : place + 1 + place % 3]) for place in range(len(texts) - 3)]
    made = []
    for place in range(number):
        negatives = (long[place + 60], long[place + 61])
        positives = (long[place], *((long[place + 62], long[place + 63]) if place % 2 else ()))
        made.append(Example(texts[place][4:], positives, negatives, (3.0,) * len(positives), (1.0, 0.5)))
    return made


def run_config(folder: Path, model: str = "llama_causal", trainer: dict[str, Any] | None = None, **fields: Any) -> Any:
    """A run file's content: six steps of eight examples on the CPU, each of them logged."""
    arguments = {
        "use_cpu": True, "max_steps": 6, "per_device_train_batch_size": 8, "logging_steps": 1, "learning_rate": 1e-3,
        "max_grad_norm": 0.0, "report_to": [], "disable_tqdm": True, **(trainer or {}),
    }  # fmt: skip
    values = {
        "attention": "causal", "negatives": 1, "document_regulariser_weight": 0.01, "query_regulariser_weight": 0.01,
        "query_max_length": 16, "document_max_length": 32, **fields,
    }  # fmt: skip
    path = model if Path(model).is_dir() else str(checkpoint(model))
    return RetrieveConfig(output=folder / "result", model=path, train=("unused",), trainer=arguments, **values)


def write_beir(folder: Path) -> Path:
    """A collection of the test sentences; queries are pieces of them, some with two relevant documents."""
    (folder / "qrels").mkdir(parents=True)
    texts = list(dict.fromkeys(sentences()))[:60]
    corpus = [
        {"_id": f"d{number}", "title": text.split()[1], "text": " ".join(text.split()[2:])}
        for number, text in enumerate(texts)
    ]
    lines = ["query-id\tcorpus-id\tscore"]
    queries = []
    for number in range(0, 40, 2):
        queries.append({"_id": f"q{number}", "text": " ".join(texts[number].split()[1:4])})
        lines += [f"q{number}\td{number}\t2", f"q{number}\td{number + 1}\t1", f"q{number}\td{number + 2}\t0"]
    queries.append({"_id": "unjudged", "text": "nobody has judged this"})
    queries.append({"_id": "irrelevant", "text": "nothing is relevant"})
    lines.append("irrelevant\td3\t0")
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)) + "\n", encoding="utf-8")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n", encoding="utf-8")
    (folder / "qrels" / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class FirstGradient(TrainerCallback):
    """Keeps the gradient of the first optimiser step."""

    def __init__(self) -> None:
        self.gradient: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        if not self.gradient:
            self.gradient = gradient(model)


def gradient(model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradient of each weight, whole where it is sharded."""
    found = {
        name: parameter.grad.detach() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return {name: part.full_tensor() if hasattr(part, "full_tensor") else part.clone() for name, part in found.items()}


def trainer(
    config: RetrieveConfig,
    folder: Path,
    model: RetrievalModel | None = None,
    number: int = 32,
    kind: type[RetrievalTrainer] = RetrievalTrainer,
    **options: Any,
) -> RetrievalTrainer:
    """A trainer over `number` examples."""
    arguments = training_arguments(config, folder, evaluates="evaluator" in options)
    start = starting_checkpoint(config)
    tokenization = Tokenization(start.tokenizer, config.encoding_spec(), start.vocabulary_size)
    return kind(
        model or build_model(config, start),
        arguments,
        config=config,
        train_dataset=ExampleDataset(examples(number)),
        data_collator=RetrievalCollator(tokenization, config),
        **options,
    )


def batch(config: RetrieveConfig, number: int = 8) -> dict[str, Tensor]:
    """The first examples as a batch."""
    start = starting_checkpoint(config)
    tokenization = Tokenization(start.tokenizer, config.encoding_spec(), start.vocabulary_size)
    return RetrievalCollator(tokenization, config)(examples(number))


def logged(run: RetrievalTrainer, name: str = "loss") -> list[float]:
    return [entry[name] for entry in run.state.log_history if name in entry]


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest distance of two gradients of one weight matrix, relative to the matrix's own gradient."""
    assert first.keys() == second.keys() and first
    return max(float((first[name] - second[name]).norm() / second[name].norm().clamp(min=1e-6)) for name in second)


def in_two_processes(worker: str, *arguments: str, **environment: str) -> None:
    """Run a script of the tests in two processes, as torchrun does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "",
        **environment,
    }  # fmt: skip
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / worker), *arguments]
    running = [
        subprocess.Popen(
            command, env={**shared, "RANK": rank, "LOCAL_RANK": rank}, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=240)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
