"""Measure what padding costs a training step, with a step's texts padded together and in groups of similar length.

    python benchmarks/training_batches.py --train pairs.jsonl
    python benchmarks/training_batches.py --train mined.jsonl --negatives 4 --batch 64 --groups 1 2 4 8

The first number of groups is the peer of the others. Each step is a forward and a backward pass over the same batches
of the given data; the ways alternate, and their losses must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from rounds import print_table

from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.fields import RetrieveConfig
from pyserini_llm_sparse.training.data.batching import ExampleDataset, RetrievalCollator
from pyserini_llm_sparse.training.data.sources import read_examples
from pyserini_llm_sparse.training.retriever.building import build_model, starting_checkpoint

EXAMPLES = 20_000  # read at most: enough to draw batches from


def batches(config: RetrieveConfig, sizes: argparse.Namespace) -> list[list[Any]]:
    """Draw the examples of all steps, as a run of one process does."""
    examples = [example for _, example in zip(range(EXAMPLES), read_examples(sizes.train), strict=False)]
    dataset = ExampleDataset(example for example in examples if len(example.negatives) >= config.negatives)
    order = list(dataset.sampler(config.seed, sizes.batch))
    return [
        [dataset[place] for place in order[number * sizes.batch : (number + 1) * sizes.batch]]
        for number in range(sizes.steps)
    ]


def computed(batch: dict[str, Any], side: str) -> int:
    """Return how many tokens of a side go through the model, padding included."""
    rows, length = batch[f"{side}_input_ids"].shape
    if f"{side}_order" not in batch:
        return int(rows * length)
    groups = zip(
        batch[f"{side}_order"].tensor_split(len(batch[f"{side}_widths"])), batch[f"{side}_widths"], strict=True
    )
    return sum(len(group) * width for group, width in groups)


def step(model: Any, batch: dict[str, Any]) -> float:
    """Do one step. Returns a number that depends on all vectors."""
    taken = {name: value for name, value in batch.items() if name.startswith(("query_", "document_"))}
    del taken["query_keys"], taken["document_keys"]
    model.zero_grad()
    queries, documents = model(**taken)
    loss = torch.logsumexp(queries @ documents.T, 1).mean()
    loss.backward()
    return float(loss.detach())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="a file of training examples, or hf:DATASET")
    parser.add_argument("--model", default="csplade", help="what is trained")
    parser.add_argument("--batch", type=int, default=32, help="examples of a step")
    parser.add_argument("--negatives", type=int, default=0, help="negatives of each")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of groups")
    parser.add_argument("--steps", type=int, default=4, help="steps of each way")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    sizes = parser.parse_args()
    if sizes.threads:
        torch.set_num_threads(sizes.threads)
    given = {"output": "-", "model": sizes.model, "train": (sizes.train,), "negatives": sizes.negatives}
    start = starting_checkpoint(RetrieveConfig(**given))
    config = RetrieveConfig(**given).continuing(start.spec)
    model = build_model(config, start)
    tokenization = Tokenization(start.tokenizer, config.encoding_spec(), start.vocabulary_size)
    drawn = batches(config, sizes)
    ways = {
        groups: RetrievalCollator(tokenization, config.model_copy(update={"length_groups": groups}))
        for groups in sizes.groups
    }
    step(model, ways[sizes.groups[0]](drawn[0]))  # warms up
    seconds: dict[int, list[float]] = {groups: [] for groups in ways}
    tokens, real = dict.fromkeys(ways, 0), 0
    for examples in drawn:
        losses = []
        for groups, collate in ways.items():
            batch = collate(examples)
            started = time.perf_counter()
            losses.append(step(model, batch))
            seconds[groups].append(time.perf_counter() - started)
            tokens[groups] += computed(batch, "document")
        real += int(batch["document_attention_mask"].sum())
        torch.testing.assert_close(torch.tensor(losses), torch.full((len(losses),), losses[0]), rtol=1e-4, atol=1e-4)
    peer = statistics.median(seconds[sizes.groups[0]])
    print(f"{sizes.model}, {sizes.batch} x {1 + sizes.negatives} documents a step, {torch.get_num_threads()} threads\n")
    print_table(
        ("groups", "computed to real tokens", "real tokens/s", "s a step", "times as fast"),
        (
            (
                str(groups),
                f"{tokens[groups] / real:.2f}",
                f"{real / len(drawn) / statistics.median(seconds[groups]):,.0f}",
                f"{statistics.median(seconds[groups]):.2f}",
                f"{peer / statistics.median(seconds[groups]):.2f}",
            )
            for groups in ways
        ),
    )


if __name__ == "__main__":
    main()
