"""A batch that does not fit into memory is halved: the run goes on, and its vectors are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="this system cannot limit a process's memory")

PROGRAM = """
import logging, resource, sys
from pathlib import Path
from pyserini_llm_sparse import SparseEncoder

logging.basicConfig(format="%(message)s")
options = {"threads": 1, "document_max_length": 256, **eval(sys.argv[1])}
encoder = SparseEncoder.load("csplade", device="cpu", **options)
texts = [("the wing of an aircraft in a slipstream " * 60)[number:] for number in range(12)]
expected = encoder.encode_documents(texts, batch_size=2)
used = next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").open() if line.startswith("VmSize"))
for more in range(70, 20, -10):  # what the allocator still has differs from run to run
    resource.setrlimit(resource.RLIMIT_AS, (used + (more << 20), resource.RLIM_INFINITY))
    encoder._batch_tokens = 12 * 256  # what a machine with many cores would try
    found = encoder.encode_documents(texts, batch_size=12)
    if encoder._batch_tokens < 12 * 256:
        break
print(abs(found.matrix - expected.matrix).max())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much a process has")
@pytest.mark.parametrize("engine", [{"dtype": "float32"}, {"precision": "fp32"}])
def test_a_batch_that_does_not_fit_is_halved(engine: dict[str, str], tmp_path: Path) -> None:
    if "precision" in engine:
        pytest.importorskip(
            "onnxruntime", reason="onnxruntime is not installed: pip install 'pyserini-llm-sparse[onnx]'"
        )
    environment = {**os.environ, "PYSERINI_LLM_SPARSE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment["MALLOC_ARENA_MAX"] = "1"  # each further one reserves 64 MB of addresses
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, repr(engine)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "out of memory with 12 texts of up to 256 tokens; going on with 1536 tokens in a batch" in done.stderr
    assert float(done.stdout) < 1e-4
