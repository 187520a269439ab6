"""The doctor's line about ONNX Runtime: which packages it comes from, and what keeps it from a GPU that is there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pyserini_llm_sparse.cli import doctor
from pyserini_llm_sparse.cli.doctor import _onnx, _training, judge_onnx
from pyserini_llm_sparse.onnx.runtime.providers import CPU_PROVIDER, CUDA_PROVIDER, judge_cuda

CPU_ONLY, WITH_CUDA = ["AzureExecutionProvider", CPU_PROVIDER], [CUDA_PROVIDER, CPU_PROVIDER]
ROOT = Path(__file__).resolve().parents[2]
BOTH = ("onnxruntime", "onnxruntime-gpu")


@pytest.mark.parametrize(
    ("distributions", "providers"), [(BOTH[:1], CPU_ONLY), (BOTH[1:], WITH_CUDA), (("onnxruntime-directml",), CPU_ONLY)]
)
def test_one_package_is_in_order_on_a_machine_without_a_gpu(
    distributions: tuple[str, ...], providers: list[str]
) -> None:
    check = judge_onnx(distributions, "1.31.1", providers, None)
    assert (check.state, check.remedy) == ("OK", "")
    assert check.found == f"1.31.1 of {distributions[0]}, providers {', '.join(providers)}"


@pytest.mark.parametrize("providers", [CPU_ONLY, WITH_CUDA, []])
def test_two_packages_over_each_other_are_both_to_be_removed(providers: list[str]) -> None:
    check = judge_onnx(BOTH, "1.31.1", providers, None)
    assert check.state == "--" and "onnxruntime and onnxruntime-gpu" in check.found
    assert "installed over each other" in check.found
    assert check.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one")


def test_what_is_left_after_one_of_two_was_removed_is_damaged() -> None:
    check = judge_onnx(BOTH[1:], "1.31.1", [], None)
    assert check.state == "--" and "providers none; damaged" in check.found
    assert check.remedy.startswith("pip uninstall -y onnxruntime-gpu, then")


@pytest.mark.parametrize(
    ("distributions", "providers", "said", "found"),
    [
        (BOTH[:1], CPU_ONLY, "", "not on the GPU: onnxruntime computes on the CPU only"),
        (BOTH, CPU_ONLY, "", "installed over each other, and CUDA was lost"),
        (BOTH[1:], WITH_CUDA, "Failed to load libcublasLt.so.13", "cannot use CUDA: Failed to load libcublasLt.so.13"),
    ],
)
def test_a_gpu_that_exports_cannot_use_is_noted_with_the_repair(
    distributions: tuple[str, ...], providers: list[str], said: str, found: str
) -> None:
    check = judge_onnx(distributions, "1.31.1", providers, judge_cuda(distributions, providers, said))
    assert check.state == "--" and found in check.found  # not FAIL: torch does without it
    assert check.remedy.startswith("for exports on the GPU: pip ") and "onnxruntime-gpu[cuda,cudnn]" in check.remedy


def test_the_line_is_about_what_is_installed_here() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    check = _onnx()
    assert check.found.startswith(f"{metadata.version('onnxruntime')} of onnxruntime")
    assert all(provider in check.found for provider in onnxruntime.get_available_providers())


def test_an_interpreter_that_drops_docstrings_is_told() -> None:
    """Under -OO transformers fails in an error of its own, which says nothing of the reason."""
    code = "from pyserini_llm_sparse.cli.doctor import _python; check = _python(); print(check.state, check.remedy)"
    said = [
        subprocess.check_output([sys.executable, *flags, "-c", code], cwd=ROOT, text=True).strip()
        for flags in ((), ("-OO",))
    ]
    assert said == ["OK", "-- transformers reads docstrings: to load models, leave -OO and PYTHONOPTIMIZE=2 out"]


def test_what_training_lacks_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _training().state == "OK"
    monkeypatch.setitem(doctor.TRAINING_PACKAGES, "no_such_module", "no-such-package")
    check = _training()
    assert (check.state, check.found) == ("--", "not installed: no-such-package")
    assert check.remedy == "only for train: pip install 'pyserini-llm-sparse[train]'"


def test_the_extra_for_training_has_what_training_needs() -> None:
    extra = re.search(r"^train =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert extra is not None
    assert set(doctor.TRAINING_PACKAGES.values()) <= {line.strip().partition(">")[0] for line in extra[1].splitlines()}
