"""The recipes in examples/regressions load and can be planned offline, and say where their numbers come from."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from pyserini_llm_sparse.files.measures import parse_measure
from pyserini_llm_sparse.modelling.names import parse_encoder_name
from pyserini_llm_sparse.modelling.published import published
from pyserini_llm_sparse.regressions.recipe.fields import Recipe, load_recipe
from pyserini_llm_sparse.regressions.recipe.systems import Csplade, Dense, Run, Splade
from pyserini_llm_sparse.regressions.run.plan import plan_recipe

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "regressions"
FILES = sorted(FOLDER.glob("*.yaml"))
NOT_RUN_HERE = (
    "beir-13", "csplade-table-1", "csplade-table-2", "echo-mistral-splade", "laconic", "lion", "msmarco-v1-passage",
)  # fmt: skip

each_recipe = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
each_not_run = pytest.mark.parametrize("name", NOT_RUN_HERE)


def header(path: Path) -> str:
    """The comment that a recipe opens with, as one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first])


def scores(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Collection, system and measure of everything that is expected."""
    return [
        (collection, system, measure)
        for collection, systems in recipe.expected.items()
        for system, found in systems.items()
        for measure in found
    ]


def test_all_that_was_written_for_larger_machines_is_there() -> None:
    assert set(NOT_RUN_HERE) <= {path.stem for path in FILES}


@each_recipe
def test_a_recipe_can_be_planned_without_network_or_models(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    plans = plan_recipe(recipe, path.parent, tmp_path / "work", 1)
    assert [plan.name for plan in plans] == list(recipe.collections)
    assert all(list(plan.systems) == list(recipe.systems) for plan in plans)
    assert not (tmp_path / "work").exists()


@each_recipe
def test_every_command_of_a_plan_is_a_module_that_exists(path: Path, tmp_path: Path) -> None:
    plans = plan_recipe(load_recipe(path), path.parent, tmp_path / "work", 1)
    shown = {step.shown() for plan in plans for step in plan.steps} - {""}
    modules = {re.match(r"python -m (\S+)", command)[1] for command in shown}  # type: ignore[index]
    assert modules and all(importlib.util.find_spec(module) for module in modules)


@each_recipe
def test_every_encoder_s_name_is_well_formed(path: Path) -> None:
    for system in load_recipe(path).systems.values():
        if isinstance(system, Csplade):
            model = parse_encoder_name(system.encoder).model
            assert model.startswith(("runs/", "trained:")) or Path(model).is_dir() or published(model), system.encoder


@each_recipe
def test_a_recipe_s_header_says_how_it_is_run(path: Path) -> None:
    assert f"python -m pyserini_llm_sparse regress examples/regressions/{path.name}" in header(path)


@each_not_run
def test_scores_that_were_not_measured_here_are_marked_as_published(name: str) -> None:
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    assert scores(recipe)
    assert {recipe.expected[one][two][three].source for one, two, three in scores(recipe)} == {"published"}


@each_not_run
def test_scores_are_fractions(name: str) -> None:
    recipe = load_recipe(FOLDER / f"{name}.yaml")
    for collection, system, measure in scores(recipe):
        parse_measure(measure)
        assert 0.1 < recipe.expected[collection][system][measure].score < 1


@each_not_run
def test_the_header_says_what_is_downloaded_on_what_it_runs_and_what_nobody_measured(name: str) -> None:
    said = header(FOLDER / f"{name}.yaml")
    assert "Downloaded:" in said and "Hardware:" in said
    assert "not measured" in said and re.search(r"[Nn]obody has (run|trained)", said)


@each_not_run
def test_files_that_a_header_names_are_in_the_repository(name: str) -> None:
    for file in re.findall(r"\b(?:examples|docs)/[\w./-]+\.(?:yaml|md)", header(FOLDER / f"{name}.yaml")):
        assert (FOLDER.parents[1] / file).is_file(), file


@each_not_run
def test_a_model_that_was_never_released_is_made_by_a_command_in_the_header(name: str) -> None:
    said = header(FOLDER / f"{name}.yaml")
    for system in load_recipe(FOLDER / f"{name}.yaml").systems.values():
        if isinstance(system, Csplade) and (model := parse_encoder_name(system.encoder).model).startswith("runs/"):
            assert model.split("/")[1] in said and "train retrieve" in said


def test_prebuilt_indexes_have_names_that_pyserini_knows() -> None:
    source = Path(importlib.util.find_spec("pyserini").submodule_search_locations[0])  # type: ignore
    known = (source / "prebuilt_index_info.py").read_text(encoding="utf-8")
    if '"msmarco-v1-passage.splade-v3": ' not in known:
        pytest.skip("this version of Pyserini downloads the names of its indexes")
    for name in NOT_RUN_HERE:
        recipe = load_recipe(FOLDER / f"{name}.yaml")
        for system in recipe.systems.values():
            if isinstance(system, Splade | Dense) and system.prebuilt:
                for collection in recipe.collections:
                    index = system.prebuilt.replace("{collection}", collection)
                    assert f'"{index}": ' in known, index


def test_rankings_of_others_are_named_by_collection() -> None:
    for name in NOT_RUN_HERE:
        recipe = load_recipe(FOLDER / f"{name}.yaml")
        assert all("{collection}" in one.path for one in recipe.systems.values() if isinstance(one, Run))


def test_the_13_collections_of_the_papers_have_the_mean_that_they_print() -> None:
    recipe = load_recipe(FOLDER / "beir-13.yaml")
    (thirteen,) = recipe.means.values()
    assert set(thirteen) == set(recipe.collections) and len(thirteen) == 13
    for system in ("bm25", "splade-v3"):
        mean = sum(recipe.expected[one][system]["nDCG@10"].score for one in thirteen) / 13
        printed = recipe.expected["BEIR-13"][system]["nDCG@10"]
        assert mean == pytest.approx(printed.score, abs=printed.tolerance)


@pytest.mark.parametrize("name", ["beir-13", "csplade-table-2", "echo-mistral-splade", "laconic"])
def test_queries_are_left_out_of_their_own_rankings_as_published(name: str) -> None:
    collections = load_recipe(FOLDER / f"{name}.yaml").collections
    assert all(source.remove_query for one, source in collections.items() if one != "msmarco")
