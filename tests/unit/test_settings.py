"""Files of settings are read or refused in a moment, with one line that says where and why."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.settings import read_json, read_settings, read_value

LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(
    f"a{level}: &a{level} [{', '.join(9 * [f'*a{level - 1}'])}]\n" for level in range(1, 10)
)
MERGED = "a0: &a0 {ha: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join(9 * [f'*a{level - 1}'])}]}}\n" for level in range(1, 10)
)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [LAUGHS, MERGED], ids=["aliases", "merged aliases"])
def test_aliases_that_stand_for_any_number_of_settings_are_refused_at_once(text: str, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=r"settings\.yaml:\d+: too many settings: .* more than 100,000 of them; write"):
        read_settings(written(tmp_path, text), "recipe")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", r"settings\.yaml: not a recipe: an alias is part of itself, or brackets are nested"),
        ("a: &a {b: *a}", r"settings\.yaml: not a recipe: an alias is part of itself, or brackets are nested"),
        (f"a: {'[' * 5000}", r"settings\.yaml: not a recipe: an alias is part of itself, or brackets are nested"),
        (f"a: 1\n? {'7' * 5000}\n: 2", r"settings\.yaml:2: not YAML: '77+… cannot be read as int"),
        (f"a: 1\nb: -{'7' * 5000}", r"settings\.yaml:2: not YAML: '-77+… cannot be read as int"),
        ("a: 1\nb: [2026-02-31]", r"settings\.yaml:2: not YAML: '2026-02-31' cannot be read as timestamp"),
        ("a: !!int x", r"settings\.yaml:1: not YAML: 'x' cannot be read as int"),
        ("a: !!bool x", r"settings\.yaml:1: not YAML: 'x' cannot be read as bool"),
        ("a: !!timestamp x", r"settings\.yaml:1: not YAML: 'x' cannot be read as timestamp"),
        ("a: 1\n\tb: 2", r"settings\.yaml:2: not YAML"),
        ("a: 1\na: 2", r"settings\.yaml:2: a: given twice"),
        ("", "one `field: value` a line is expected"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_settings(written(tmp_path, text), "recipe")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_alias_is_what_it_stands_for_with_the_lines_of_that(tmp_path: Path) -> None:
    content, lines = read_settings(written(tmp_path, "a: &a\n  b: 1e-5\nc: {<<: *a, d: 2}\ne: *a\n"), "recipe")
    assert content == {"a": {"b": 1e-5}, "c": {"b": 1e-5, "d": 2}, "e": {"b": 1e-5}}
    assert lines["a", "b"] == 2 and lines["c", "d"] == 3 and lines["e",] == 4 and lines["e", "b"] == 2


@given(st.text(st.sampled_from("ab1&*<>:{}[],!?-'\"\n #|~.eE_")))
def test_any_text_is_settings_or_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), text)
        try:
            content, lines = read_settings(path, "recipe")
        except DataError as error:
            assert str(error).startswith(str(path)) and str(error).isprintable() and "; " in str(error)
        else:
            assert isinstance(content, dict) and len(lines) >= len(content)


def test_a_value_of_an_override_that_is_no_number_after_all_is_refused() -> None:
    assert read_value("1e-5") == 1e-5 and read_value("[a, 1]") == ["a", 1]
    for text in ("[", "7" * 5000, "[" * 5000, "2026-02-31"):
        with pytest.raises(ValueError):
            read_value(text)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"a": ' + "7" * 5000 + "}"])
def test_a_json_file_that_is_no_object_is_one_line(text: str, tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    (path := tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: .*; restore the file"):
        read_json(path)


def test_a_file_that_is_not_there_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot read the recipe"):
        read_settings(tmp_path / "none.yaml", "recipe")
