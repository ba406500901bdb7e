"""Compile the claims ledger: every numbered claim of the paper, with verdict and evidence of the studies that ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gradlab.errors import GradlabError
from gradlab.runtime import digests
from gradlab.study import paper
from gradlab.study.formatting import text
from gradlab.study.verdicts import WORDS, Verdict

UNTESTED = "not tested"


class Entry(NamedTuple):
    """One line of the ledger.

    Attributes:
        number: number of the claim.
        source: where the paper makes it.
        claim: text of the claim.
        verdict: ``holds``, ``not here``, ``undecided`` or ``not tested``.
        evidence: one sentence with numbers, or the command to run.
        study: study that decides the claim; empty if there is none yet.
        budget: profile of the run, and whether ``--set`` changed it; empty if there was no run.
    """

    number: int
    source: str
    claim: str
    verdict: str
    evidence: str
    study: str
    budget: str


def ledger(folder: str | Path) -> list[Entry]:
    """Return a verdict on every claim of the paper, from the results in an output folder.

    Args:
        folder: output folder of ``gradlab run``.

    Returns:
        One entry per claim.

    Raises:
        GradlabError: the folder does not exist, or its results are damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GradlabError(f"no such folder: {folder}; give an output folder of 'gradlab run'")
    return [_entry(folder, claim) for claim in paper.claims().to_dict("records")]


def read_verdicts(folder: Path, record: dict[str, Any]) -> list[dict[str, str]]:
    """Read the verdicts of a study: the fields of ``Verdict``, and the ``word`` to show.

    Args:
        folder: folder of the study.
        record: its provenance.

    Raises:
        GradlabError: the file was modified after writing, or lacks a column.
    """
    path = folder / "verdicts.csv"
    if not path.exists():
        return []
    frame = digests.read_table(path, record)
    if not set(Verdict._fields) <= set(frame.columns):
        raise GradlabError(f"{path} lacks one of the columns {', '.join(Verdict._fields)}: run its study again")
    rows = [{key: text(row[key]) for key in Verdict._fields} for row in frame.to_dict("records")]
    return [{**row, "word": WORDS.get(row["holds"], "undecided")} for row in rows]


def _entry(folder: Path, claim: dict[str, str]) -> Entry:
    study = claim["study"]
    entry = Entry(
        int(claim["number"]), claim["source"], claim["claim"], UNTESTED, "no study of gradlab tests it yet", study, ""
    )
    if not study:
        return entry
    if not (folder / study / "verdicts.csv").exists():
        return entry._replace(evidence=f"not run yet: gradlab run {study}")
    record = digests.read_record(folder / study)
    if not record:
        return entry._replace(evidence=f"{study} is not finished: gradlab run {study} --resume")
    for verdict in read_verdicts(folder / study, record):
        if verdict["claim"] == claim["verdict"]:
            budget = str(record.get("profile", "")) + (", changed" if record.get("set") else "")
            return entry._replace(verdict=verdict["word"], evidence=verdict["evidence"], budget=budget)
    return entry._replace(evidence=f"{study} was run with another version of gradlab: run it again")
