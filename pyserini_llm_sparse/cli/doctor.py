"""``doctor``: whether what the commands need is there, each line OK or with a remedy."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import duration, print_json, without_java_warnings
from pyserini_llm_sparse.errors import LlmSparseError, PrerequisiteError, first_line
from pyserini_llm_sparse.modelling.names import EMBEDDED, KEYWORD
from pyserini_llm_sparse.version import __version__

NAME = "doctor"
HELP = """Check that everything needed is there.

Each line is OK, or says what to do; -- marks what only some jobs need. Exit code 3 if something required is
missing.
"""
EXAMPLES = ("doctor", "doctor --encoder my-model --json")

ONNX_RUNTIME = "ONNX Runtime"
DISABLE = "PYSERINI_LLM_SPARSE_DISABLE"
OPTIONAL_PACKAGES = {
    "ir_datasets": "irds: corpora and topics; [eval]",
    "ir_measures": "measures; [eval]",
    "faiss": "pyserini.search.hybrid; [eval]",
}
# What `train` needs beside what all commands need, by import name; [train].
TRAINING_PACKAGES = {
    "accelerate": "accelerate", "datasets": "datasets", "ir_measures": "ir-measures", "matplotlib": "matplotlib",
    "sentence_transformers": "sentence-transformers", "tensorboard": "tensorboard",
}  # fmt: skip
WIDTH = 16


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: ``OK``; ``--``, not there and not required; ``FAIL``, required and missing or broken.
        found: What there is.
        remedy: What to do, if it is not OK.
    """

    name: str
    state: Literal["OK", "--", "FAIL"]
    found: str
    remedy: str = ""


def command(
    encoder: options.Encoder = KEYWORD,
    as_json: options.Json = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    checks = []
    for check in run_checks(encoder):
        checks.append(check)
        if not as_json:
            typer.echo(f"{check.state:<4} {check.name:<{WIDTH}} {check.found}")
            if check.remedy:
                typer.echo(f"{'':<4} {'':<{WIDTH}} -> {check.remedy}")
    if as_json:
        print_json([asdict(check) for check in checks])
    failed = [check.name for check in checks if check.state == "FAIL"]
    if failed:
        raise PrerequisiteError(f"doctor: {', '.join(failed)}: missing or broken: see above; follow the remedies")


def run_checks(encoder: str) -> Iterator[Check]:
    """Yield each check as soon as it is made; one that breaks down is a failed one."""
    parts: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("hook", _hook),
        ("Java", _java),
        ("Pyserini", _pyserini),
        ("torch", _torch),
        ("transformers", _transformers),
        (ONNX_RUNTIME, _onnx),
        ("training", _training),
        ("model cache", _cache),
        ("encoder", lambda: _encoder(encoder)),
    ]
    for name, check in parts:
        try:
            yield check()
        except LlmSparseError as error:
            found, _, remedy = str(error).partition("; ")
            yield Check(name, "FAIL", found, remedy)
        except Exception as error:  # a broken installation can raise anything; the other lines still help
            yield Check(name, "FAIL", f"{type(error).__name__}: {first_line(error)}", "install it again")
    for package, purpose in OPTIONAL_PACKAGES.items():
        yield _optional(package, purpose)


def _python() -> Check:
    found = f"{sys.version.split()[0]} in {sys.prefix}; pyserini-llm-sparse {__version__}"
    if sys.flags.optimize > 1:  # a choice that breaks another library, whose own error says nothing of it
        remedy = "transformers reads docstrings: to load models, leave -OO and PYTHONOPTIMIZE=2 out"
        return Check("Python", "--", f"{found}, without docstrings", remedy)
    return Check("Python", "OK", found)


def _hook() -> Check:
    """The start-up hook: seen from here only if it ran when this process started."""
    if os.environ.get(DISABLE, "0") not in ("", "0"):
        return Check("hook", "--", f"switched off by {DISABLE}", f"unset {DISABLE}")
    if "_pyserini_llm_sparse_boot" in sys.modules:
        return Check("hook", "OK", "Pyserini's own commands take --encoder csplade")
    return Check(
        "hook", "--", "did not run: not installed, installed in editable mode, or Python was started with -S",
        "for Pyserini's commands: python -m pyserini_llm_sparse.pyserini pyserini.encode ...",
    )  # fmt: skip


def _java() -> Check:
    from pyserini_llm_sparse.indexing.lucene import jdk

    found = jdk.find_jdk()
    without = "" if found.has_vector_module else ", without the vector module (slower, but works)"
    return Check("Java", "OK", f"{found}{without}")


def _pyserini() -> Check:
    """Whether it is there, can be imported, and has the places that the plugin patches."""
    version = metadata.version("pyserini")
    from pyserini_llm_sparse import plugin
    from pyserini_llm_sparse.indexing.lucene import jdk

    jdk.use_jdk()
    plugin.register()
    with without_java_warnings():
        import pyserini.encode
        import pyserini.search.lucene

    if problems := plugin.problems():
        return Check("Pyserini", "FAIL", f"{version}: {problems[0]}", "install a version that is named there")
    return Check("Pyserini", "OK", f"{version}, in {Path(pyserini.encode.__file__).parents[1]}")


def _torch() -> Check:
    import torch

    if torch.cuda.is_available():
        devices = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    else:
        devices = f"no GPU; {torch.get_num_threads()} CPU threads"
    return Check("torch", "OK", f"{torch.__version__}, {devices}")


def _transformers() -> Check:
    from pyserini_llm_sparse.modelling.backbone.loading import require_transformers

    require_transformers()
    return Check("transformers", "OK", metadata.version("transformers"))


def _training() -> Check:
    from importlib.util import find_spec

    from pyserini_llm_sparse.modelling.backbone.loading import LEAST_TRANSFORMERS_TO_TRAIN, require_transformers

    remedy = "only for train: pip install 'pyserini-llm-sparse[train]'"
    missing = [package for name, package in TRAINING_PACKAGES.items() if find_spec(name) is None]
    if missing:
        return Check("training", "--", f"not installed: {', '.join(missing)}", remedy)
    try:
        require_transformers(LEAST_TRANSFORMERS_TO_TRAIN, "training")
    except PrerequisiteError as error:
        return Check("training", "--", first_line(error).partition("; ")[0], remedy)
    return Check("training", "OK", ", ".join(TRAINING_PACKAGES.values()))


def _onnx() -> Check:
    from pyserini_llm_sparse.onnx.runtime import providers

    distributions = providers.installed_runtimes()
    if not distributions:
        remedy = "only for ONNX exports: pip install 'pyserini-llm-sparse[onnx]'"
        return Check(ONNX_RUNTIME, "--", "not installed", remedy)
    version = metadata.version(distributions[0])
    problem = None if providers.missing_driver() else providers.cuda_problem()
    return judge_onnx(distributions, version, providers.available_providers(), problem)


def judge_onnx(
    distributions: Sequence[str], version: str, providers: Sequence[str], cuda: tuple[str, str] | None
) -> Check:
    """Return the line about ONNX Runtime.

    Args:
        distributions: The installed packages that are ONNX Runtime.
        version: Of the first.
        providers: What the one that is imported can compute with.
        cuda: On a machine with a GPU, why it cannot compute there, and what to do.
    """
    found = f"{version} of {' and '.join(distributions)}, providers {', '.join(providers) or 'none'}"
    if cuda is not None:
        return Check(ONNX_RUNTIME, "--", f"{found}; not on the GPU: {cuda[0]}", f"for exports on the GPU: {cuda[1]}")
    if len(distributions) > 1 or not providers:
        why = "installed over each other" if len(distributions) > 1 else "damaged: another of its packages was removed"
        remedy = f"pip uninstall -y {' '.join(distributions)}, then pip install one: onnxruntime, or onnxruntime-gpu"
        return Check(ONNX_RUNTIME, "--", f"{found}; {why}", remedy)
    return Check(ONNX_RUNTIME, "OK", found)


def _cache() -> Check:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    offline = ", offline" if constants.HF_HUB_OFFLINE else ""
    if not folder.is_dir():
        return Check("model cache", "OK", f"{folder}, not there yet{offline}")
    if not os.access(folder, os.W_OK):
        return Check("model cache", "--", f"{folder}: cannot be written to", "set HF_HOME to a folder of yours")
    models = sum(path.name.startswith("models--") for path in folder.iterdir())
    return Check("model cache", "OK", f"{folder}, {models} models{offline}")


def _encoder(name: str) -> Check:
    from pyserini_llm_sparse.encoder import SparseEncoder

    started = time.monotonic()
    encoder = SparseEncoder.load(name)
    impacts = encoder.document_impacts(["The doctor asks whether the model answers."])[0]
    if not impacts:
        return Check("encoder", "FAIL", f"{name}: loads, but its vectors are empty", "check its encoding spec")
    home = f" ({EMBEDDED})" if name == KEYWORD else ""
    return Check(
        "encoder", "OK",
        f"{name}{home} encodes a sentence to {len(impacts)} terms, {duration(time.monotonic() - started)} with loading",
    )  # fmt: skip


def _optional(package: str, purpose: str) -> Check:
    from importlib.util import find_spec

    what, _, extra = purpose.partition("; ")
    if find_spec(package) is None:
        return Check(package, "--", f"not installed: only for {what}", f"pip install 'pyserini-llm-sparse{extra}'")
    return Check(package, "OK", f"installed, for {what}")
