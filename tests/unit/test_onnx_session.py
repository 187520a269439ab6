"""Where and how ONNX Runtime runs an export: devices, threads, bound inputs, and installations that cannot do it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.errors import PrerequisiteError, UsageError
from pyserini_llm_sparse.onnx.runtime import precision as precisions
from pyserini_llm_sparse.onnx.runtime import session as sessions
from pyserini_llm_sparse.onnx.runtime.precision import fastest_precision
from pyserini_llm_sparse.onnx.runtime.providers import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    cuda_problem,
    device_number,
    export_device,
    installed_runtimes,
    judge_cuda,
    provider_options,
)
from pyserini_llm_sparse.onnx.runtime.session import OUTPUTS, OnnxEngine, cpu_threads, padded, run_bound
from pyserini_llm_sparse.system import allowed_cores, cores_each, multiplies_bfloat16, multiplies_int8
from tests.checkpoints import TEXTS, checkpoint
from tests.exports import exported

NAME = "llama_bidirectional_untied"

without_cuda = pytest.mark.skipif(
    CUDA_PROVIDER in __import__("onnxruntime").get_available_providers(), reason="this onnxruntime has CUDA"
)


def opened(precision: str = "fp32") -> tuple[SparseEncoder, OnnxEngine]:
    encoder = SparseEncoder.load(str(exported(NAME, precision)), device="cpu")
    engine = encoder.engine
    assert isinstance(engine, OnnxEngine)
    return encoder, engine


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_bound_inputs_and_outputs_give_what_a_plain_run_gives(precision: str) -> None:
    encoder, engine = opened(precision)
    texts = [text for text in encoder.tokenization.token_ids(TEXTS, "document") if text.ids]
    for k in (1, 20, 10_000):
        for batch in (texts, texts[:1], texts[::-1]):  # other shapes through one session
            inputs = {**padded(batch, 512), "k": np.array([k])}
            plain, bound = engine.session.run(OUTPUTS, inputs), run_bound(engine.session, inputs)
            for expected, found in zip(plain, bound, strict=True):
                np.testing.assert_array_equal(found, expected)
                assert found.dtype == expected.dtype and found.shape[0] == len(batch)


def test_threads_sleep_while_they_wait_and_memory_is_not_planned_for_each_shape() -> None:
    """Spinning takes the cores from others; what was planned is never given back, and there are many shapes."""
    options = opened()[1].session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.enable_mem_pattern is False


@pytest.mark.parametrize("exact", [False, True])
def test_slower_products_in_int8_are_asked_for_only_where_the_fast_ones_saturate(
    exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "multiplies_int8", lambda: exact)
    options = opened("int8")[1].session.get_session_options()
    if exact:
        with pytest.raises(RuntimeError, match="does not have"):
            options.get_session_config_entry("session.x64quantprecision")
    else:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.parametrize(("device", "number"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:13", 13)])
def test_devices_are_known_by_name(device: str, number: int | None) -> None:
    assert device_number(device) == number
    assert device_number(torch.device(device)) == number  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["mps", "cuda:", "cuda:x", "gpu", "cpu,cpu"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(UsageError, match="run on cpu, cuda or cuda:NUMBER"):
        SparseEncoder.load(str(exported(NAME)), device=device)
    with pytest.raises(UsageError, match="run on cpu, cuda or cuda:NUMBER"):
        SparseEncoder.load(str(checkpoint(NAME)), precision="int8", device=device)


def test_a_session_on_a_gpu_has_the_cpu_behind_it_and_exact_float32() -> None:
    (provider, options), behind = provider_options(3)
    assert (provider, behind) == (CUDA_PROVIDER, CPU_PROVIDER)
    assert options == {"device_id": 3, "arena_extend_strategy": "kSameAsRequested", "use_tf32": 0}
    assert provider_options(None) == [CPU_PROVIDER]


def test_an_export_for_the_cpu_stays_there_and_a_device_that_was_asked_for_is_kept() -> None:
    assert [export_device(None, precision) for precision in ("fp32", "int8", "int4")] == ["cpu"] * 3
    assert export_device("cpu", "fp16") == "cpu" and export_device("cuda:1", "int8") == "cuda:1"
    assert SparseEncoder.load(str(exported(NAME))).device == torch.device("cpu")


@without_cuda
def test_the_fastest_on_a_cpu_is_int8_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(checkpoint(NAME))
    monkeypatch.setattr(precisions, "multiplies_int8", lambda: False)
    assert SparseEncoder.load(name, precision="auto").loader.precision == "onnx fp32"
    monkeypatch.setattr(precisions, "multiplies_int8", lambda: True)
    assert SparseEncoder.load(name, precision="auto").loader.precision == "onnx int8"
    assert SparseEncoder.load(f"{name},precision=auto", device="cpu").loader.precision == "onnx int8"
    assert SparseEncoder.load(str(exported(NAME)), precision="auto").loader.precision == "onnx fp32"
    assert [fastest_precision(device) for device in ("cuda:1", "mps")] == [None, None]
    with pytest.raises(UsageError, match="precision auto and dtype bfloat16"):
        SparseEncoder.load(name, precision="auto", dtype="bfloat16")
    monkeypatch.setattr(precisions, "find_spec", lambda package: None if package == "onnx" else package)
    assert SparseEncoder.load(name, precision="auto").loader.precision == "float32"


@without_cuda
def test_an_export_for_a_gpu_runs_on_the_cpu_where_there_is_none() -> None:
    assert export_device(None, "fp16") == export_device(None, "bf16") == "cpu"


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_the_runtime_cannot_use_is_one_line_with_the_remedy(device: str) -> None:
    encoder = SparseEncoder.load(str(exported(NAME)), device=device)
    with pytest.raises(PrerequisiteError) as caught:
        encoder.encode_documents(TEXTS)
    assert str(caught.value) == (
        f"device cuda:{device[5:] or 0}: onnxruntime computes on the CPU only; pip uninstall -y onnxruntime, then pip "
        "install 'onnxruntime-gpu[cuda,cudnn]', or use device cpu"
    )
    assert cuda_problem() is not None and installed_runtimes() == ("onnxruntime",)


@without_cuda
def test_a_model_is_not_exported_for_a_gpu_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSERINI_LLM_SPARSE_CACHE", str(tmp_path))
    encoder = SparseEncoder.load(str(checkpoint(NAME)), precision="int8", device="cuda")
    with pytest.raises(PrerequisiteError, match="computes on the CPU only"):
        encoder.encode_documents(TEXTS)
    assert not list(tmp_path.iterdir())


CPU_ONLY, WITH_CUDA = ["AzureExecutionProvider", CPU_PROVIDER], [CUDA_PROVIDER, CPU_PROVIDER]
BOTH = ("onnxruntime", "onnxruntime-gpu")
LIBRARY = "Failed to load libcublasLt.so.13: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("distributions", "providers", "said", "what", "remedy"),
    [
        (("onnxruntime",), CPU_ONLY, "", "onnxruntime computes on the CPU only", "uninstall -y onnxruntime, then"),
        (("onnxruntime-directml",), CPU_ONLY, "", "onnxruntime-directml computes", "uninstall -y onnxruntime-directml"),
        ((), CPU_ONLY, "", "onnxruntime computes on the CPU only", "uninstall -y onnxruntime, then"),
        (BOTH, CPU_ONLY, "", "installed over each other, and CUDA was lost", "-y onnxruntime onnxruntime-gpu, then"),
        (BOTH, WITH_CUDA, LIBRARY, f"does not start: {LIBRARY}", "uninstall -y onnxruntime onnxruntime-gpu, then"),
        (BOTH[1:], WITH_CUDA, LIBRARY, LIBRARY, "pip install 'onnxruntime-gpu[cuda,cudnn]', or import a torch"),
        (BOTH[1:], WITH_CUDA, "no NVIDIA driver: libcuda.so.1", "no NVIDIA driver", "give the container its GPU"),
        (BOTH[1:], WITH_CUDA, "CUDA failure 101: invalid device ordinal", "invalid device ordinal", "nvidia-smi"),
    ],
)
def test_what_keeps_cuda_away_is_named_with_its_repair(
    distributions: tuple[str, ...], providers: list[str], said: str, what: str, remedy: str
) -> None:
    found = judge_cuda(distributions, providers, said)
    assert found is not None and what in found.what and remedy in found.remedy


def test_an_installation_that_computes_on_a_gpu_has_no_problem() -> None:
    assert judge_cuda(BOTH[1:], WITH_CUDA, "") is None


def test_what_is_left_of_two_packages_after_one_was_uninstalled_is_refused(tmp_path: Path, root: Path) -> None:
    """Both own the same files: without them the folder is a package without content, which Python imports."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    program = (
        "from pyserini_llm_sparse.errors import PrerequisiteError\n"
        "from pyserini_llm_sparse.onnx.runtime.session import require_runtime\n"
        "import sys; sys.path.insert(0, sys.argv[1]); sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        "try: require_runtime()\n"
        "except PrerequisiteError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert "remains of itself" in said and "pip uninstall -y" in said and len(said.splitlines()) == 1


def test_threads_are_those_asked_for_then_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert cpu_threads(5) == 5 and cpu_threads(None) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert cpu_threads(None) == (allowed_cores() or 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can be bound to cores on this system")
def test_a_process_that_is_bound_to_a_core_uses_one_thread(root: Path) -> None:
    if os.cpu_count() == 1:
        pytest.skip("the machine has one core")
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from pyserini_llm_sparse.onnx.runtime.session import cpu_threads; print(cpu_threads(None))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, cwd=root, env=environment, text=True) == "1\n"


@pytest.mark.parametrize(
    ("reported", "has_them"),
    [
        ("flags\t\t: fpu fma avx2 avx512f", False),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx512f avx512_vnni", True),
        ("Features\t: fp asimd evtstrm crc32 atomics asimdhp", False),
        ("Features\t: fp asimd asimdhp asimddp sve", True),
        ("cpu\t\t: POWER9, altivec supported", False),
    ],
)
def test_instructions_for_int8_are_known_by_what_a_processor_reports(
    reported: str, has_them: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "any")
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\n{reported}\n", encoding="utf-8")
    assert multiplies_int8(info) == has_them
    assert not multiplies_bfloat16(info) and not multiplies_bfloat16(tmp_path / "none")
    info.write_text("flags\t\t: avx512_vnni avx512_bf16\n", encoding="utf-8")
    assert multiplies_bfloat16(info)


@pytest.mark.parametrize(
    ("system", "machine", "features", "has_them"),
    [
        ("darwin", "arm64", (), True),
        ("darwin", "x86_64", (), False),
        ("win32", "AMD64", (43,), False),
        ("win32", "ARM64", (43,), True),
        ("win32", "ARM64", (), False),
        ("linux", "x86_64", (), False),
    ],
)
def test_where_linux_does_not_tell_only_known_processors_count(
    system: str,
    machine: str,
    features: tuple[int, ...],
    has_them: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = SimpleNamespace(IsProcessorFeaturePresent=lambda number: int(number in features))
    monkeypatch.setattr(
        ctypes, "windll", SimpleNamespace(kernel32=kernel) if system == "win32" else None, raising=False
    )
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert multiplies_int8(tmp_path / "none") == has_them


@pytest.mark.parametrize(
    ("content", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_container_s_share_of_time_counts_as_cores(content: str, cores: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(content)
    bound = allowed_cores(tmp_path / "none")
    found = allowed_cores(tmp_path / "cpu.max")
    assert found == (bound if cores is None else min(cores, bound or cores))


def test_several_processes_share_the_cores() -> None:
    assert cores_each(1) >= cores_each(2) >= cores_each(10_000) == 1
