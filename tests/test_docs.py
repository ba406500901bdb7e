"""The documentation builds without a warning and is whole: links, reference, ties of equations, nothing from elsewhere."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.cmd.build import build_main

from tests.processes import Process

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import commandline  # noqa: E402
import mathml  # noqa: E402
import public  # noqa: E402
import tie  # noqa: E402

LABEL = re.compile(r"^\s*\$\$ \(([\w-]+)\)\s*$", flags=re.MULTILINE)
LOADS = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """What a page links to, what it loads, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loads, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.add(found["href"])
        if tag in LOADS and found.get(LOADS[tag]):
            self.loads.add(found[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as ``make docs`` does."""
    target = tmp_path_factory.mktemp("site")
    log = tmp_path_factory.mktemp("log") / "log.txt"
    arguments = ["-W", "-n", "--keep-going", "-q", "-b", "html", str(DOCS), str(target)]
    assert Process(build_main, arguments, log=log).wait() == 0, log.read_text()[-4000:]
    return target


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def broken(pages):
    """Internal links and anchors that lead nowhere."""
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchored = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
            if not target.exists() or not anchored:
                lost.append(f"{path.name}: {link}")
    return lost


def foreign(site, pages):
    """Everything that a page would fetch from another host to show itself."""
    found = [f"{path.name}: {load}" for path, page in pages.items() for load in page.loads if urlsplit(load).netloc]
    for sheet in site.rglob("*.css"):
        found += re.findall(
            r"(?:url\(|@import\s)\s*['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text(encoding="utf-8")
        )
    return found


@pytest.mark.slow
def test_internal_links_and_anchors_lead_somewhere(pages):
    assert len(pages) > 40
    assert broken(pages) == []


@pytest.mark.slow
def test_nothing_is_loaded_from_another_host(site, pages):
    assert foreign(site, pages) == []


def test_a_broken_link_and_a_foreign_script_are_seen(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<a href="#no">a</a><a href="no.html">b</a><a id="x" href="#x">c</a><script src="//cdn/x.js"></script>'
    )
    (tmp_path / "a.css").write_text("@import 'https://fonts/x.css'; b { background: url(data:x) }")
    found = {page.resolve(): Page(page)}
    assert sorted(broken(found)) == ["page.html: #no", "page.html: no.html"]
    assert foreign(tmp_path, found) == ["page.html: //cdn/x.js", "https://fonts/x.css"]


@pytest.mark.slow
def test_mathematics_is_mathml(site):
    text = (site / "theory" / "bounds.html").read_text(encoding="utf-8")
    assert text.count("<math") > 20 and "mathjax.js" not in text.lower() and 'class="eqno">(1)' in text


def test_latex_that_does_not_convert_is_a_warning(caplog):
    mathml.mathml(r"\left( a", "inline")
    mathml.mathml(r"\nosuchcommand x", "inline")
    assert len(caplog.records) == 2


@pytest.mark.slow
def test_every_public_name_has_a_docstring_and_a_place_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, path: path)
    documented = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    missing, bare = [], []
    for module, names in public.homes().items():
        missing += (
            [module] if module not in documented and f"{module}.{module.split('.')[-1]}" not in documented else []
        )
        for name in names:
            value = getattr(importlib.import_module(module), name)
            missing += [f"{module}.{name}"] if f"{module}.{name}" not in documented else []
            describes_itself = inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)
            bare += [f"{module}.{name}"] if describes_itself and not inspect.getdoc(value) else []
    assert missing == [] and bare == []


@pytest.mark.slow
def test_the_names_of_the_package_are_listed(site):
    import gradlab as gl

    text = (site / "reference" / "api" / "gradlab.html").read_text(encoding="utf-8")
    assert [name for name in gl.__all__ if f"gl.{name}<" not in text] == []


@pytest.mark.slow
def test_the_command_line_is_described(site):
    text = (site / "reference" / "api" / "command-line.html").read_text(encoding="utf-8")
    found = commandline.commands(commandline.application(), "gradlab")
    assert {path for path, _ in found} >= {"gradlab list", "gradlab run", "gradlab check", "gradlab data prepare"}
    for path, command in found:
        words = "".join(f'<span class="pre">{word}</span> ' for word in path.split()).strip()
        assert words in text
        for parameter in command.params:
            assert parameter.opts[0] in text or parameter.metavar in text or parameter.name == "help"


@pytest.mark.parametrize("page", sorted((DOCS / "theory").glob("*.md")), ids=lambda p: p.stem)
def test_every_numbered_equation_is_tied_to_a_function_and_a_test(page):
    text = page.read_text()
    labels = LABEL.findall(text)
    tied = [label.strip() for line in re.findall(r"```\{tie\} (.*)", text) for label in line.split(",")]
    assert sorted(labels) == sorted(tied)
    assert labels or page.stem == "index"


def test_ties_resolve_or_say_so():
    assert tie.resolves("gradlab.problems._oracle.moments.bound") and tie.resolves(
        "gradlab.problems.TwoLevel.exact_bound"
    )
    assert not tie.resolves("gradlab.problems._oracle.moments.nothing") and not tie.resolves("nothing.at.all")
    assert "test_ties_resolve_or_say_so" in tie.tests_in(Path(__file__))
    assert not tie.tests_in(ROOT / "tests" / "nothing.py")


GOOD = (
    "gradlab.problems._oracle.moments.bound",
    "tests/snr/test_definitions.py::test_definitions_on_stored_draws",
    "x^2",
)


@pytest.mark.parametrize(("function", "test", "latex", "code"), [
    (*GOOD, 0),
    ("gradlab.problems._oracle.moments.nothing", *GOOD[1:], 1),
    (GOOD[0], "tests/snr/test_definitions.py::test_nothing", GOOD[2], 1),
    (GOOD[0], "", GOOD[2], 1),
    (*GOOD[:2], r"\nothing", 1),
    (*GOOD[:2], r"\begin{gathered} a & b \end{gathered}", 1),
])  # fmt: skip
def test_what_is_tied_to_nothing_does_not_build(tmp_path, monkeypatch, function, test, latex, code):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    (tmp_path / "conf.py").write_text(
        "extensions = ['myst_parser', 'mathml', 'tie']\nmyst_enable_extensions = ['dollarmath']\n"
        "html_math_renderer = 'mathml'\n"
    )
    tied = f"```{{tie}} here\n{function}\n{test}\n```\n"
    (tmp_path / "index.md").write_text(f"# Page\n\n$$\n{latex}\n$$ (here)\n\n{tied}")
    assert build_main(["-W", "-q", str(tmp_path), str(tmp_path / "out")]) == code


def test_make_docs_treats_warnings_as_errors_as_the_test_does():
    makefile = (ROOT / "Makefile").read_text()
    assert "sphinx-build -W -n --keep-going -q -b html docs docs/_build/html" in makefile
    assert "-b linkcheck" in makefile
