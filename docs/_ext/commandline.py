"""The pages on the command line and on the studies, in Markdown, from the application itself."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from gradlab import cli
from gradlab.study import catalog


def application() -> Any:
    """The click command that typer makes of gradlab's."""
    return typer.main.get_command(cli.app)


def commands(command: Any, path: str) -> list[tuple[str, Any]]:
    """Every command below, with what is typed to reach it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(path, command)]
    return [found for name, sub in inner.items() for found in commands(sub, f"{path} {name}")]


def command_page() -> str:
    """All commands, with their arguments and options."""
    lines = ["# Command line", "", inspect.cleandoc(application().help or ""), ""]
    lines += ["Bad input is one sentence on standard error and exit code 2.", ""]
    for path, command in commands(application(), "gradlab"):
        lines += _describe(path, command)
    return "\n".join(lines)


def study_page() -> str:
    """All studies, with the first lines of their docstrings."""
    lines = ["# Studies", "", "One script for each table, figure or question: `gradlab run NAME` runs it.", ""]
    for name, line in catalog.studies().items():
        lines += [f"`{name}`", f": {line}", ""]
    return "\n".join(lines)


def _describe(path: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    lines = [f"## `{path}`", "", *inspect.cleandoc(command.help or "").splitlines(), ""]
    lines += ["```text", " ".join([path, "[OPTIONS]", *(p.metavar or p.name.upper() for p in arguments)]), "```", ""]
    for p in command.params:
        if p.name == "help":
            continue
        name = (p.metavar or p.name.upper()) if p in arguments else ", ".join(p.opts)
        value = "" if p in arguments or getattr(p, "is_flag", False) else f" {p.metavar or 'VALUE'}"
        lines += [f"`{name}{value}`", f": {(p.help or '').strip()}{_default(p)}", ""]
    return lines


def _default(p: Any) -> str:
    value = p.show_default if isinstance(p.show_default, str) else p.default
    if p.required or value in (None, False) or callable(value):
        return ""
    return f" Default: `{', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}`."
