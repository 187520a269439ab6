"""Measure the memory and speed of a training step's three large pieces against their plain implementations.

    python benchmarks/training_memory.py --vocabulary 32000 128256
    python benchmarks/training_memory.py --part batch

- ``head``: term weights and their gradient. The peers hold the logits of the whole batch: ``as written`` is the formula
  in the order in which SPLADE is published, ``max first`` takes the maximum before the activation.
- ``few terms``: the same where a text has about 1 % of the terms, as at the end of training; our backward pass costs as
  much as there are terms.
- ``next token``: both cross-entropies of the adaptation.
- ``batch``: a contrastive step of a small model, the whole batch at once against gradient caching.

Every case runs in a process of its own. Its peak memory is what it needs beyond a process that holds the inputs and
their gradients; a step is a forward and a backward pass. Results must agree, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from peak_memory import median_of, peak

if TYPE_CHECKING:
    from torch import Tensor

Steps = tuple[list["Tensor"], dict[str, Callable[[], "Tensor"]]]

CASES = {
    "head": ("as written", "max first", "ours"),
    "few terms": ("as written", "max first", "ours"),
    "next token": ("plain", "ours"),
    "batch": ("plain", "cached"),
}
SIZES = ("vocabulary", "batch", "length", "hidden_size", "cached", "steps")


def head(sizes: Namespace, shift: float = 0.0) -> Steps:
    """Term weights of a batch, half of it padded to twice its length."""
    import torch

    from pyserini_llm_sparse.modelling.backbone.head import activate, max_logits

    hidden, weight = states_and_weight(sizes)
    bias = torch.full((sizes.vocabulary,), shift, device=sizes.device)
    mask = torch.ones(sizes.batch, sizes.length, dtype=torch.long, device=sizes.device)
    mask[::2, sizes.length // 2 :] = 0

    def as_written() -> Tensor:
        return (torch.log1p(torch.relu(hidden @ weight.T + bias)) * mask.unsqueeze(-1)).amax(1)

    def max_first() -> Tensor:
        logits = (hidden @ weight.T + bias).masked_fill(mask.unsqueeze(-1) == 0, -torch.inf)
        return activate(logits.amax(1))

    def ours() -> Tensor:
        return activate(max_logits(hidden, weight, mask, bias))

    forwards = zip(CASES["head"], (as_written, max_first, ours), strict=True)
    return [hidden, weight], {case: lambda forward=forward: forward().square().mean() for case, forward in forwards}


def few_terms(sizes: Namespace) -> Steps:
    """The same with a bias that leaves about a hundredth of the terms."""
    return head(sizes, shift=-3.9)


def next_token(sizes: Namespace) -> Steps:
    """Both losses of packed sequences."""
    import torch
    from torch.nn.functional import cross_entropy

    from pyserini_llm_sparse.training.objectives.language_modelling import next_token_loss

    hidden, weight = states_and_weight(sizes)
    targets = torch.randint(0, sizes.vocabulary, (sizes.batch, sizes.length), device=sizes.device)

    def plain() -> Tensor:
        logits = (hidden @ weight.T).flatten(0, 1)
        sparse = torch.log1p(torch.relu(logits))
        return cross_entropy(logits, targets.flatten()) + cross_entropy(sparse, targets.flatten())

    def ours() -> Tensor:
        first, second = next_token_loss(hidden, weight, targets, 1.0)
        return first + second

    return [hidden, weight], {"plain": plain, "ours": ours}


def batch(sizes: Namespace) -> Steps:
    """A contrastive step of a Llama of four layers: queries of a quarter of the length, two documents each."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
    from pyserini_llm_sparse.modelling.spec import EncodingSpec
    from pyserini_llm_sparse.training.config.fields import RetrieveConfig
    from pyserini_llm_sparse.training.objectives.ranking import RetrievalObjective
    from pyserini_llm_sparse.training.retriever.gradient_cache import cached_backward
    from pyserini_llm_sparse.training.retriever.model import RetrievalModel

    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden_size,
        intermediate_size=3 * sizes.hidden_size,
        num_hidden_layers=4,
        num_attention_heads=max(1, sizes.hidden_size // 64),
    )
    backbone = Backbone(LlamaForCausalLM(config), "causal")
    allowed = torch.ones(sizes.vocabulary, dtype=torch.bool)
    model = RetrievalModel(backbone, EncodingSpec(attention="causal"), allowed).to(sizes.device).train()
    objective = RetrievalObjective(
        RetrieveConfig(output="-", model="-", train=("-",), negatives=1, document_regulariser_weight=0.01)
    )
    texts: dict[str, Tensor] = {}
    for side, count, length in (("query", sizes.batch, sizes.length // 4), ("document", 2 * sizes.batch, sizes.length)):
        shape = (count, length)
        texts[f"{side}_input_ids"] = torch.randint(0, sizes.vocabulary, shape, device=sizes.device)
        for mask in ("attention_mask", "pool_mask"):
            texts[f"{side}_{mask}"] = torch.ones(shape, dtype=torch.long, device=sizes.device)

    def loss_of(queries: Tensor, documents: Tensor) -> Tensor:
        query_keys, document_keys = (torch.arange(len(side), device=side.device) for side in (queries, documents))
        relevant = query_keys[:, None] * 2 == document_keys
        keys = {"query_keys": query_keys, "document_keys": document_keys, "relevant": relevant}
        return objective(queries, documents, **keys, teacher_scores=None, ramp=1.0)[0]

    def plain() -> Tensor:
        return loss_of(*model(**texts))

    def cached() -> Tensor:
        return cached_backward(model, texts, sizes.cached, loss_of, lambda loss: loss.backward())

    return list(model.parameters()), {"plain": plain, "cached": cached}


def states_and_weight(sizes: Namespace) -> tuple[Tensor, Tensor]:
    """Return hidden states and an output embedding; logits are standard normal."""
    import torch

    hidden = torch.randn(sizes.batch, sizes.length, sizes.hidden_size, device=sizes.device)
    weight = torch.randn(sizes.vocabulary, sizes.hidden_size, device=sizes.device)
    weight.mul_(sizes.hidden_size**-0.5)  # in place: a copy would hide a small peak
    return hidden.requires_grad_(), weight.requires_grad_()


PREPARE = {"head": head, "few terms": few_terms, "next token": next_token, "batch": batch}


def measure(part: str, case: str, sizes: Namespace) -> dict[str, float]:
    """Run one case in this process. Returns its peak memory in MB, seconds a step, and what must agree."""
    import torch

    torch.manual_seed(0)
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    torch.set_num_threads(threads)
    on_gpu = sizes.device == "cuda"
    # One thread's own time does not depend on what else the machine does.
    clock = time.process_time if threads == 1 and not on_gpu else time.perf_counter
    leaves, steps = PREPARE[part](sizes)
    loss, seconds = 0.0, 0.0
    if case == "inputs":
        for leaf in leaves:
            leaf.grad = torch.ones_like(leaf)
    else:
        for number in range(sizes.steps + 1):  # the first one warms up
            for leaf in leaves:
                leaf.grad = None
            start = clock()
            result = steps[case]()
            if result.requires_grad:
                result.backward()
            loss = float(result.detach())  # waits for the device
            if on_gpu:
                torch.cuda.synchronize()
            seconds += clock() - start if number else 0.0
    memory = torch.cuda.max_memory_allocated() / (1 << 20) if on_gpu else peak()
    norm = sum(float(leaf.grad.double().square().sum()) for leaf in leaves) ** 0.5
    return {"peak": memory, "seconds": seconds / sizes.steps, "loss": loss, "norm": norm}


def compare(part: str, sizes: Namespace, repeats: int) -> None:
    """Run and print the cases of one part."""
    arguments = ["--sizes", *(getattr(sizes, name) for name in SIZES), "--device", sizes.device]
    found = {
        case: median_of(__file__, ["--part", part, "--case", case, *arguments], repeats)
        for case in ("inputs", *CASES[part])
    }
    label = f"{part}, {sizes.vocabulary:,} terms"
    for case in CASES[part]:
        found[case]["peak"] -= found["inputs"]["peak"]
        print(f"{label:<26}{case:<12}{found[case]['peak']:>9.0f}{1 / found[case]['seconds']:>9.2f}", flush=True)
        label = ""
    ours = found[CASES[part][-1]]
    for case in CASES[part][:-1]:
        peer = found[case]
        for name in ("loss", "norm"):
            if abs(ours[name] - peer[name]) > 1e-4 * abs(peer[name]):
                raise SystemExit(f"{part}: {name} differs: {ours[name]} and {peer[name]} ({case})")
        print(
            f"{'':<26}{case} : {CASES[part][-1]} = {peer['peak'] / max(ours['peak'], 1):.1f} : 1 in memory, "
            f"{ours['seconds'] / peer['seconds']:.2f} : 1 in steps per second"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 128_256])
    parser.add_argument("--batch", type=int, default=8, help="texts; of the part batch, a quarter of the queries")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--cached", type=int, default=8, help="texts at a time with gradient caching")
    parser.add_argument("--steps", type=int, default=2, help="steps timed, after one that is not")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=len(SIZES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        sizes = Namespace(**dict(zip(SIZES, options.sizes, strict=True)), device=options.device)
        print(json.dumps(measure(options.part[0], options.case, sizes)))
        return
    print(
        f"batch {options.batch} ({4 * options.batch} queries in the part batch), length {options.length}, hidden size "
        f"{options.hidden_size}, float32, {options.device}, {os.environ.get('OMP_NUM_THREADS', '1')} thread(s)"
    )
    print(f"{'':<26}{'':<12}{'peak MB':>9}{'steps/s':>9}")
    for part in options.part:
        # The part batch is about the number of texts, and its model's size grows with the vocabulary: once is enough.
        for vocabulary in options.vocabulary[:1] if part == "batch" else options.vocabulary:
            sizes = Namespace(**{**vars(options), "vocabulary": vocabulary})
            if part == "batch":
                sizes.batch *= 4
            compare(part, sizes, options.repeats)


if __name__ == "__main__":
    main()
