"""Every command's help ends with examples, and the options in them exist."""

from __future__ import annotations

import shlex

import pytest
import typer.main

from pyserini_llm_sparse.cli.app import app, main

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


def test_all_documented_commands_are_there() -> None:
    assert COMMANDS == ["doctor", "encode", "encode-queries", "explain", "index", "search"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_ends_with_examples_whose_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command] if command else []
    text = help_of(arguments, capsys)
    description, _, examples = text.partition("Example:\n")
    ours = [line.strip() for line in examples.splitlines() if line.strip().startswith("pyserini-llm-sparse ")]
    assert ours, "no example"
    for line in ours:
        words = shlex.split(line.partition(" > ")[0])
        options = [word for word in words if word.startswith("--")]
        known = help_of([words[1]], capsys) if not command else description
        assert not [option for option in options if f"{option} " not in known], line
        if command:
            assert words[1] == command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert [parameter.name for parameter in parameters if parameter.name != "help" and not parameter.help] == []


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr()
    for command in COMMANDS:
        assert f"  {command} " in printed.out + printed.err
