"""Every command's help ends with examples, and the options in them exist."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from pyserini_llm_sparse.cli.app import app, main

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
PHASES = [f"train {phase}" for phase in typer.main.get_command(app).commands["train"].commands]  # type: ignore[attr-defined]


def help_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


def test_all_documented_commands_are_there() -> None:
    assert COMMANDS == [
        "doctor",
        "encode",
        "encode-queries",
        "explain",
        "export",
        "index",
        "push",
        "regress",
        "search",
        "train",
    ]


@pytest.mark.parametrize("command", ["", *COMMANDS, *PHASES])
def test_help_ends_with_examples_whose_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command.split()
    text = help_of(arguments, capsys)
    description, _, examples = text.partition("Example:\n")
    ours = [line.strip() for line in examples.splitlines() if line.strip().startswith("pyserini-llm-sparse ")]
    assert ours, "no example"
    for line in ours:
        words = shlex.split(line.partition(" > ")[0])
        options = [word for word in words if word.startswith("--")]
        known = description if command in PHASES else help_of(words[1 : 3 if words[1] == "train" else 2], capsys)
        assert not [option for option in options if f"{option} " not in known], line
        if command:
            assert words[1 : 1 + len(arguments)] == arguments


@pytest.mark.parametrize("command", [*COMMANDS, *PHASES])
def test_every_option_is_explained(command: str) -> None:
    found = typer.main.get_command(app)
    for name in command.split():
        found = found.commands[name]  # type: ignore[attr-defined]
    parameters = found.params
    assert [parameter.name for parameter in parameters if parameter.name != "help" and not parameter.help] == []


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr()
    for command in COMMANDS:
        assert f"  {command} " in printed.out + printed.err


PRINT_ALL = """
import json, sys
from pyserini_llm_sparse.cli.app import main

for command in json.loads(sys.argv[1]):
    print(command, main([*command.split(), "--help"]))
print(main(["--version"]))
"""


def test_help_is_the_same_without_docstrings(root: Path) -> None:
    commands = json.dumps(["", *COMMANDS, *PHASES])
    printed = {}
    for flags in ((), ("-OO",)):
        arguments = [sys.executable, "-W", "error", *flags, "-c", PRINT_ALL, commands]
        run = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        printed[flags] = run.stdout
    assert printed[()].count("Usage: ") == len(COMMANDS) + len(PHASES) + 1
    assert printed[("-OO",)] == printed[()]


@pytest.mark.parametrize("command", [*COMMANDS, *PHASES])
def test_every_command_says_what_it_does(command: str) -> None:
    found = typer.main.get_command(app)
    for name in command.split():
        found = found.commands[name]  # type: ignore[attr-defined]
    assert found.help is not None and found.help.strip().endswith(".")
