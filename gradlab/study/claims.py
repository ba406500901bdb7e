"""The claims ledger: every numbered claim of the paper, with the verdict and the evidence of the studies that were
run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gradlab.errors import GradlabError
from gradlab.runtime import digests
from gradlab.study import paper

WORDS = {"yes": "holds", "no": "not here", "undecided": "undecided"}
UNTESTED = "not tested"


class Entry(NamedTuple):
    """One line of the ledger.

    Attributes:
        number: of the claim; source: where the paper makes it; claim: what it says.
        verdict: ``holds``, ``not here``, ``undecided`` or ``not tested``.
        evidence: one sentence with numbers, or what to run.
        study: which study decides it; empty where none does yet.
        budget: profile of the run, whether ``--set`` changed it; empty where there was none.
    """

    number: int
    source: str
    claim: str
    verdict: str
    evidence: str
    study: str
    budget: str


def ledger(folder: str | Path) -> list[Entry]:
    """Every claim of the paper, judged by the results in a folder that ``gradlab run`` wrote. Nothing is typed in.

    Raises:
        GradlabError: no such folder, or damaged results.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GradlabError(f"no such folder: {folder}; give one that 'gradlab run' wrote")
    return [_entry(folder, claim) for claim in paper.claims().to_dict("records")]


def _entry(folder: Path, claim: dict[str, str]) -> Entry:
    study = claim["study"]
    said = Entry(
        int(claim["number"]), claim["source"], claim["claim"], UNTESTED, "no study of gradlab tests it yet", study, ""
    )
    if not study:
        return said
    path = folder / study / "verdicts.csv"
    if not path.exists():
        return said._replace(evidence=f"run it: gradlab run {study}")
    record = digests.read_record(folder / study)
    if not record:
        return said._replace(evidence=f"{study} is not finished: gradlab run {study} --resume")
    found = digests.read_table(path, record)
    if not {"claim", "holds", "evidence"} <= set(found.columns):
        raise GradlabError(f"{path} lacks one of the columns claim, holds, evidence: run its study again")
    match = found[found["claim"] == claim["verdict"]]
    if match.empty:
        return said._replace(evidence=f"{study} was run by another version: run it again")
    budget = str(record.get("profile", "")) + (", changed" if record.get("set") else "")
    row = match.iloc[0]
    return said._replace(verdict=WORDS.get(row["holds"], "undecided"), evidence=str(row["evidence"]), budget=budget)
