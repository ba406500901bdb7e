"""Every code block of the README and of the documentation runs: Python as it stands, commands as far as their parsing.

What a Python block prints is what the ``text`` block after it shows: words exactly, numbers within a tolerance. A block
that needs what a test has not is preceded by ``% skip: next "why"``.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser, SkipParser

from gradlab.cli import app
from gradlab.study import catalog

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *(p for p in sorted(DOCS.rglob("*.md")) if "_build" not in p.parts)]
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+(?:e[+-]\d+)?|e[+-]\d+)\b")
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def run_python(example):
    """Executes a block in the namespace of its page, with the tests that it defines."""
    names, printed = example.namespace, io.StringIO()
    tree = ast.parse(example.parsed, filename=str(example.path))
    ast.increment_lineno(tree, example.line + example.parsed.line_offset)
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, str(example.path), "exec"), names)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names[node.name]()
    # Training amplifies the last bit of a sum, which differs between processors: its numbers agree to a factor of 4.
    names["printed"] = printed.getvalue(), 3.0 if "train(" in example.parsed else 0.02


def compare(example):
    """The text after a block that printed is what it printed."""
    printed, tolerance = example.namespace.pop("printed", ("", 0.0))
    if not printed:
        return  # a picture in letters
    shown = example.parsed
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), f"it printed:\n{printed}"
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        larger, smaller = sorted((float(ours), float(theirs)), key=abs, reverse=True)
        assert larger == pytest.approx(smaller, rel=tolerance, abs=0.005), f"it printed:\n{printed}"


def check_commands(example):
    """Commands of this repository are ones that it understands."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        for between, words in itertools.groupby(lexer, key=lambda word: set(word) <= set(";&|")):
            if not between:
                check_command(list(words), line)


def check_command(words, line):
    """One command: of gradlab, a target of make, or a script of the repository."""
    if words[0] == "gradlab":
        parse(words[1:])
    elif words[0] == "make":
        assert set(words[1:]) <= TARGETS, f"no such target: {line}"
    elif words[0] == "python" and "/" in words[1]:
        assert (ROOT / words[1]).is_file(), f"no such script: {line}"
        if words[1].startswith("studies/"):
            parse(["run", Path(words[1]).stem.replace("_", "-"), *words[2:]])


def parse(arguments):
    """Parses a command line of gradlab, down to the command that it names, without running it."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.make_context(command.name or "gradlab", list(arguments), parent=context)
        if not hasattr(command, "commands"):
            break
        rest = [*context._protected_args, *context.args]
        _, command, arguments = command.resolve_command(context, rest)
    studies = context.params.get("studies") or []
    assert set(studies) <= set(catalog.studies()), f"no such study among {studies}"


SYBIL = Sybil(
    parsers=[
        SkipParser(),
        CodeBlockParser("python", run_python),
        CodeBlockParser("text", compare),
        CodeBlockParser("sh", check_commands),
        CodeBlockParser("console", check_commands),
        CodeBlockParser("bash", check_commands),
    ]
)


@pytest.fixture
def one_thread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] if page.name == "README.md" else [])
    for page in PAGES
])  # fmt: skip
def test_code_blocks(page, one_thread):
    for example in SYBIL.parse(page).examples():
        example.evaluate()


def test_every_block_is_of_a_language_that_is_tested():
    """A fence without a language, or with another, would be skipped in silence."""
    for page in PAGES:
        opened = re.findall(r"^\s*```(\S*)[^\n]*\n(?:.*?)^\s*```\s*$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        plain = [language for language in opened if not language.startswith("{")]
        files = {"dockerfile", "ini", "json", "toml", "yaml"}  # shown, not run
        assert set(plain) <= {"python", "text", "sh", "console", "bash"} | files, page


def test_the_readme_shows_an_example_of_each_scale():
    blocks = re.findall(r"```python\n(.*?)```\n\n```text", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert [name for name in ("gl.compare", "GradientRecorder", "rate_distortion") for b in blocks if name in b] == [
        "gl.compare", "GradientRecorder", "rate_distortion",
    ]  # fmt: skip


@pytest.mark.parametrize("page", ["README.md", "docs/guide/check-an-estimator.md"])
def test_the_test_that_is_shown_fails_where_it_says(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    (shown,) = [b for b in blocks if "def test_" in b]
    names: dict = {}
    exec(shown.replace(".detach()", ".detach() ** 2"), names)
    with pytest.raises(AssertionError, match="this matches the mean of dreg"):
        names["test_mine"]()


@pytest.mark.parametrize(("block", "error"), [
    ("```python\nprint(1.5)\n```\n\n```text\n1.6\n```\n", AssertionError),
    ("```python\nprint('a')\n```\n\n```text\nb\n```\n", AssertionError),
    ("```python\nassert False\n```\n", AssertionError),
    ("```python\ndef test_it():\n    raise KeyError\n```\n", KeyError),
    ("```sh\ngradlab run nothing\n```\n", AssertionError),
    ("```sh\ngradlab run table3 --nothing\n```\n", Exception),
    ("```sh\ngradlab list; gradlab nothing  # a comment; with a semicolon\n```\n", Exception),
    ("```sh\nmake nothing\n```\n", AssertionError),
    ("```sh\npython studies/nothing.py\n```\n", AssertionError),
])  # fmt: skip
def test_a_wrong_block_is_caught(block, error, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(block)
    with pytest.raises(error):
        for example in SYBIL.parse(page).examples():
            example.evaluate()
