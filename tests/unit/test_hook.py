"""The start-up hook: free where Pyserini is not used, harmless where it is used without us, loud where we are asked."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pyserini_llm_sparse.plugin import command_line, drift
from pyserini_llm_sparse.plugin.patches.hybrid_weight import warn_of_weight
from pyserini_llm_sparse.plugin.targets import TARGETS

COST = """
import sys, time
sys.path.insert(0, sys.argv[1])
line = open(sys.argv[1] + "/pyserini_llm_sparse.pth").read()
start = time.perf_counter()
exec(line)
print(time.perf_counter() - start)
find = sys.meta_path[0].find_spec
start = time.perf_counter()
for _ in range(10000):
    find("some.module", None, None)
print((time.perf_counter() - start) / 10000)
print(len([name for name in sys.modules if name.startswith("pyserini_llm_sparse")]))
"""


def run(code: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **variables}, cwd=os.path.sep, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A tiny package in Pyserini's place whose query encoding command is not the one that we know."""
    (tmp_path / "pyserini" / "encode").mkdir(parents=True)
    (tmp_path / "pyserini" / "__init__.py").touch()
    maps = "document_encoder_class_map = {'splade': object}\nquery_encoder_class_map = {'auto': object}\n"
    (tmp_path / "pyserini" / "encode" / "__init__.py").write_text(maps, encoding="utf-8")
    query = "import sys\n\ndef main():\n    print('ran', *sys.argv[1:])\n\nmain()\n"
    (tmp_path / "pyserini" / "encode" / "query.py").write_text(query, encoding="utf-8")
    main = "def other():\n    pass\n\nif __name__ == '__main__':\n    print(__file__, __spec__.name)\n"
    (tmp_path / "pyserini" / "encode" / "__main__.py").write_text(main, encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(root: Path, stand_in: Path):
    """Runs a module of the stand-in with the start-up hook, as ``python -m`` does."""

    def begin(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        code = """
            import runpy, sys
            import _pyserini_llm_sparse_boot
            _pyserini_llm_sparse_boot.install()
            module = sys.argv.pop(1)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        """
        path = os.pathsep.join([str(root), str(stand_in)])
        return run(code, module, *arguments, PYTHONPATH=path, **variables)

    return begin


def test_start_up_costs_less_than_a_millisecond(root: Path, tmp_path: Path) -> None:
    for name in ("_pyserini_llm_sparse_boot.py", "pyserini_llm_sparse.pth"):
        shutil.copy(root / name, tmp_path)
    compileall.compile_dir(tmp_path, quiet=1)  # as pip does
    runs = [run(COST, tmp_path).stdout.split() for _ in range(8)]
    assert min(float(seconds) for seconds, _, _ in runs) < 0.001
    assert min(float(seconds) for _, seconds, _ in runs) < 1e-6, "each import pays this"
    assert {count for _, _, count in runs} == {"0"}, "the package itself is not imported"


def test_both_start_up_files_name_what_there_is(root: Path) -> None:
    import _pyserini_llm_sparse_boot as boot

    assert callable(boot.install)
    (line,) = (root / "pyserini_llm_sparse.pth").read_text(encoding="utf-8").splitlines()
    assert line == "import _pyserini_llm_sparse_boot; _pyserini_llm_sparse_boot.install()"
    (line,) = (root / "pyserini_llm_sparse.start").read_text(encoding="utf-8").splitlines()
    assert line == "_pyserini_llm_sparse_boot:install"


def test_an_unknown_pyserini_runs_as_it_is(start) -> None:
    done = start("pyserini.encode.query", "--encoder", "other")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "ran --encoder other", "")


def test_an_unknown_pyserini_is_an_error_for_those_who_ask_for_us(start) -> None:
    for arguments in (
        ("--encoder", "csplade"),
        ("--encoder=csplade:x",),
        ("--encoder", "x", "--encoder-class", "csplade"),
    ):
        done = start("pyserini.encode.query", *arguments)
        assert done.returncode == 3
        assert "python -m pyserini_llm_sparse encode-queries" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""


def test_the_opt_out_variable_is_obeyed(start) -> None:
    done = start("pyserini.encode.query", "--encoder", "csplade", PYSERINI_LLM_SPARSE_DISABLE="1")
    assert done.stdout.strip() == "ran --encoder csplade"


def test_a_command_keeps_its_file_and_name(start, stand_in: Path) -> None:
    done = start("pyserini.encode")
    assert done.stdout.split() == [str(stand_in / "pyserini" / "encode" / "__main__.py"), "pyserini.encode.__main__"]


def test_a_broken_plugin_does_not_break_pyserini(stand_in: Path, root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "pyserini_llm_sparse"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('half uninstalled')\n", encoding="utf-8")
    code = "import _pyserini_llm_sparse_boot as boot; boot.install(); import pyserini; print('imported')"
    path = os.pathsep.join([str(broken.parent), str(stand_in), str(root)])
    assert run(code, PYTHONPATH=path).stdout.strip() == "imported"
    loud = run(code, "--encoder", "csplade", PYTHONPATH=path)
    assert loud.stdout.strip() == "imported"
    assert "half uninstalled" in loud.stderr


def test_registering_twice_is_registering_once(root: Path) -> None:
    code = """
        import sys
        from pyserini_llm_sparse.plugin import register, registered
        before = registered()
        register(); register()
        names = [type(finder).__name__ for finder in sys.meta_path]
        print(before, registered(), names.count("PyseriniFinder"), "torch" in sys.modules)
    """
    assert run(code, PYTHONPATH=str(root)).stdout.split() == ["False", "True", "1", "False"]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["encoder", "--encoder", "csplade"], True),
        (["--encoder=csplade:/some/path"], True),
        (["--enc", "csplade,query_top_k=5"], True),
        (["--encoder", "meta/llama", "--encoder-class", "csplade"], True),
        (["--encoder", "naver/splade-v3"], False),
        (["--encoder", "meta/llama", "--encoder-class", "splade"], False),
        (["--output", "run.csplade.txt", "--topics", "csplade"], False),
        (["--encoded-corpus", "csplade"], False),
        (["--encoder"], False),
        ([], False),
    ],
)
def test_a_command_line_asks_for_us_by_encoder_or_class_only(arguments: list[str], asked: bool) -> None:
    assert command_line.encoder_requested(arguments) is asked


def test_a_default_of_pyserini_is_the_number_and_tells_that_it_is_a_default() -> None:
    default = command_line.PyseriniDefault(256)
    assert default == 256
    assert isinstance(default, command_line.PyseriniDefault)
    assert not isinstance(int(default), command_line.PyseriniDefault)


def test_every_target_names_a_command_of_ours_to_fall_back_on() -> None:
    commands = {"encode", "encode-queries", "index", "search", "explain", "doctor"}
    assert {target.fallback for target in TARGETS.values()} <= commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--alpha 0.1: scores by impacts are in the tens of thousands"),
        (["--alpha", "0"], "--alpha 0 ignores the sparse scores: the ranking is the dense search's"),
        (["--alpha=0", "--weight-on-dense"], "--alpha 0 ignores the dense scores: the ranking is the sparse search's"),
        (["--weight-on-dense", "--alpha", "5"], "--alpha 5: scores by impacts"),
        (["--normalization"], ""),
        (["--alpha", "0.0005"], ""),
        (["--alpha", "2000", "--weight-on-dense"], ""),
        (["--alpha", "much"], ""),
    ],
)
def test_a_hybrid_weight_that_ignores_one_side_is_told(
    arguments: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_weight(arguments)
    assert said in caplog.text and bool(said) == bool(caplog.text)


def test_drift_is_remembered_for_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "problems", [])
    monkeypatch.setattr(sys, "argv", ["program"])
    with drift.contained("pyserini.encode", "encode"):
        raise KeyError("document_encoder_class_map")
    assert len(drift.problems) == 1
    assert "KeyError: 'document_encoder_class_map'" in drift.problems[0]
