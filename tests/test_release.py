"""What a release and the hosting site read: versions, dates, the changelog, and jobs that name existing targets."""

from __future__ import annotations

import datetime
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?$", re.MULTILINE)
GROUPS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
YAML = sorted({*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"})


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def disagreements(version: str, changelog: str, citation: dict[str, Any]) -> list[str]:
    """What of a version is said differently in two places."""
    headings = HEADING.findall(changelog)
    found = []
    if len(re.findall(r"^## ", changelog, re.MULTILINE)) != len(headings):
        found.append("a heading of the changelog is neither [Unreleased] nor [VERSION] - DATE")
    if [name for name, _ in headings].count("Unreleased") != 1 or headings[0] != ("Unreleased", ""):
        found.append("the changelog does not begin with its one Unreleased section")
    released = {name: date for name, date in headings if name != "Unreleased"}
    if len(released) != len([name for name, _ in headings if name != "Unreleased"]):
        found.append("the changelog names a version twice")
    dates = list(released.values())
    try:
        days = [datetime.date.fromisoformat(date) for date in dates]
    except ValueError:
        found.append("a version of the changelog has no date")
    else:
        if days != sorted(days, reverse=True):
            found.append("the changelog is not in the order of its dates")
    if citation["version"] != version:
        found.append(f"CITATION.cff is of {citation['version']}, pyproject.toml of {version}")
    date = str(citation.get("date-released", ""))
    if date != released.get(version, ""):
        found.append(f"CITATION.cff was released on {date or 'no day'}, the changelog says {released.get(version)}")
    if released and version in released and next(iter(released)) != version:
        found.append("the version of pyproject.toml is not the newest of the changelog")
    return found


def test_version_changelog_and_citation_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert disagreements(project()["version"], changelog, read(ROOT / "CITATION.cff")) == []


RELEASED = "# Changelog\n\n## [Unreleased]\n\n## [1.1.0] - 2030-02-01\n\n## [1.0.0] - 2030-01-01\n"


@pytest.mark.parametrize(
    ("version", "changelog", "citation", "message"),
    [
        ("1.1.0", RELEASED, {"version": "1.1.0", "date-released": "2030-02-01"}, ""),
        ("1.2.0.dev0", RELEASED, {"version": "1.2.0.dev0"}, ""),
        ("1.1.0", RELEASED, {"version": "1.0.0", "date-released": "2030-02-01"}, "is of 1.0.0"),
        ("1.1.0", RELEASED, {"version": "1.1.0"}, "released on no day"),
        ("1.1.0", RELEASED, {"version": "1.1.0", "date-released": "2030-02-02"}, "released on 2030-02-02"),
        ("1.2.0.dev0", RELEASED, {"version": "1.2.0.dev0", "date-released": "2030-02-01"}, "the changelog says None"),
        ("1.0.0", RELEASED, {"version": "1.0.0", "date-released": "2030-01-01"}, "not the newest"),
        ("1.1.0", RELEASED.replace("2030-02-01", "soon"), {"version": "1.1.0", "date-released": "soon"}, "has no date"),
        ("1.2.0", RELEASED.replace("2030-02-01", "2029-02-01"), {"version": "1.2.0"}, "order of its dates"),
        ("1.2.0", RELEASED + "\n## [Unreleased]\n", {"version": "1.2.0"}, "its one Unreleased"),
        ("1.2.0", RELEASED.replace("## [Unreleased]\n\n", ""), {"version": "1.2.0"}, "its one Unreleased"),
        ("1.2.0", RELEASED.replace("[1.0.0]", "[1.1.0]"), {"version": "1.2.0"}, "a version twice"),
        ("1.2.0", RELEASED + "\n## 0.9 (unreleased)\n", {"version": "1.2.0"}, "neither"),
    ],
)
def test_disagreements_are_found(version: str, changelog: str, citation: dict[str, Any], message: str) -> None:
    found = disagreements(version, changelog, citation)
    assert [message in one for one in found] == ([True] if message else [])


def test_the_citation_is_of_this_project_and_names_the_paper() -> None:
    citation, metadata = read(ROOT / "CITATION.cff"), project()
    assert citation["title"].partition(":")[0] == metadata["name"]
    assert citation["license"] == metadata["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in metadata["authors"]]
    assert citation["keywords"] == metadata["keywords"]
    (paper,) = citation["references"]
    assert paper["title"] in (ROOT / "README.md").read_text("utf-8")
    assert (paper["year"], len(paper["authors"])) == (2022, 7)


def test_sections_of_the_changelog_have_known_groups() -> None:
    groups = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert groups and set(groups) <= GROUPS


def targets() -> set[str]:
    """The targets of the Makefile."""
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    return {
        target for line in lines if (match := re.match(r"([a-z][a-z -]*):(?!=)", line)) for target in match[1].split()
    }


def makes(command: str) -> list[str]:
    """The targets of each ``make`` of a shell command."""
    named: list[str] = []
    for line in command.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            named += [word for word in words[1:] if "=" not in word]
    return named


def test_workflows_and_hooks_name_targets_that_exist() -> None:
    workflows = [read(path) for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    jobs = [job for workflow in workflows for job in workflow["jobs"].values()]
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    hooks = [hook["entry"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    named = {target for command in commands for target in makes(command)}
    assert named >= {"lint", "types", "layers", "unit", "minimal", "docs", "bench-quick"}
    assert {target for command in hooks for target in makes(command)} == {"lint", "types", "layers"}
    releasing = re.findall(r"make [a-z][^`#\n]*", (ROOT / "RELEASING.md").read_text("utf-8"))
    assert named | {target for command in releasing for target in makes(command)} <= targets()


def test_workflows_run_with_few_rights_and_end() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        assert workflow["concurrency"]["cancel-in-progress"] is True
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 60
            assert all(re.fullmatch(r"[\w./-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_the_versions_of_python_that_are_supported_are_tested() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    versions = workflow["jobs"]["minimal"]["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    low = re.match(r">=3\.(\d+)", project()["requires-python"])
    assert low and f"3.{low[1]}" == versions[0]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_is_read(path: Path) -> None:
    assert isinstance(read(path), dict)
