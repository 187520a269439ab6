"""Measure the peak memory and time of the sparse head against the same formula with all logits.

    python benchmarks/head_memory.py --vocabulary 32000 128256

Every case runs in a process of its own, several times, and its peak resident memory is compared with that of a process
that only holds the inputs. The peer is what a user would write: logits of the whole batch, ``log1p(relu(...))``, the
mask, the maximum (the order in which Pyserini's SPLADE encoder computes it).
"""

from __future__ import annotations

import argparse
import json
import os
import time

from peak_memory import median_of, peak

CASES = ("inputs", "all logits", "ours")


def measure(case: str, vocabulary: int, batch: int, length: int, hidden_size: int) -> dict[str, float]:
    """Run one case in this process. Returns the peak resident memory in MB and the seconds of the head alone."""
    import torch

    from pyserini_llm_sparse.modelling.backbone.head import activate, max_logits

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    hidden = torch.randn(batch, length, hidden_size)
    weight = torch.randn(vocabulary, hidden_size).mul_(hidden_size**-0.5)  # in place: a copy would hide a small peak
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[::2, length // 2 :] = 0
    checksum, start = 0.0, time.perf_counter()
    with torch.inference_mode():
        if case == "all logits":
            weights = torch.log1p(torch.relu(hidden @ weight.T)) * mask.unsqueeze(-1)
            checksum = float(weights.amax(1).double().sum())
        elif case == "ours":
            checksum = float(activate(max_logits(hidden, weight, mask)).double().sum())
    seconds = time.perf_counter() - start
    return {"peak": peak(), "seconds": seconds, "checksum": checksum}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 128_256])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, *options.sizes)))
        return
    print(f"batch {options.batch}, length {options.length}, hidden size {options.hidden_size}, float32")
    print(f"{'vocabulary':>10}  {'head':<12}{'peak MB':>9}{'seconds':>9}")
    for vocabulary in options.vocabulary:
        sizes = [vocabulary, options.batch, options.length, options.hidden_size]
        found = {case: median_of(__file__, ["--case", case, "--sizes", *sizes], options.repeats) for case in CASES}
        for case in CASES[1:]:
            found[case]["peak"] -= found["inputs"]["peak"]
            print(f"{vocabulary:>10}  {case:<12}{found[case]['peak']:>9.0f}{found[case]['seconds']:>9.2f}")
        ours, peer = found["ours"], found["all logits"]
        if abs(ours["checksum"] / peer["checksum"] - 1) > 1e-5:
            raise SystemExit(f"the results differ: {ours['checksum']} and {peer['checksum']}")
        print(
            f"{'':>10}  all logits : ours = {peer['peak'] / max(ours['peak'], 1):.0f} : 1 in memory, "
            f"{peer['seconds'] / ours['seconds']:.1f} : 1 in time"
        )


if __name__ == "__main__":
    main()
