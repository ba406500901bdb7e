from __future__ import annotations

import pandas as pd
import pytest

from gradlab import cli
from gradlab.errors import GradlabError
from gradlab.runtime import digests, files
from gradlab.study import paper
from gradlab.study.claims import ledger


def write(folder, claim, holds):
    (folder / "toys").mkdir(exist_ok=True)
    rows = pd.DataFrame([{"claim": claim, "source": "s", "holds": holds, "evidence": "bias 0.5 of 1.2"}])
    files.write_csv(folder / "toys" / "verdicts.csv", rows)
    files.write_json(folder / "toys" / "provenance.json", digests.sealed({"study": "toys"}))


@pytest.mark.parametrize(("holds", "word"), [("yes", "holds"), ("no", "not here"), ("undecided", "undecided")])
def test_a_verdict_reaches_its_claim(tmp_path, holds, word):
    wanted = paper.claims().iloc[2]
    write(tmp_path, wanted["verdict"], holds)
    entry = ledger(tmp_path)[2]
    assert (entry.verdict, entry.evidence, entry.study) == (word, "bias 0.5 of 1.2", "toys")


def test_what_was_not_run_is_not_tested(tmp_path):
    entries = ledger(tmp_path)
    assert {e.verdict for e in entries} == {"not tested"}
    assert entries[0].evidence == "not run yet: gradlab run toys"
    assert {e.evidence for e in entries if not e.study} <= {"no study of gradlab tests it yet"}
    write(tmp_path, "something else", "yes")
    assert "another version" in ledger(tmp_path)[0].evidence


def test_a_study_that_is_not_finished_decides_nothing(tmp_path):
    wanted = paper.claims().iloc[2]
    write(tmp_path, wanted["verdict"], "yes")
    (tmp_path / "toys" / "provenance.json").unlink()
    entry = ledger(tmp_path)[2]
    assert entry.verdict == "not tested" and entry.evidence == "toys is not finished: gradlab run toys --resume"


def test_the_command_prints_it(tmp_path, capsys):
    write(tmp_path, paper.claims().iloc[2]["verdict"], "yes")
    assert cli.main(["claims", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "bias 0.5 of 1.2" in said
    assert said.count("not tested") == len(paper.claims()) - 1


def test_a_missing_folder(tmp_path, capsys):
    with pytest.raises(GradlabError, match="no such folder"):
        ledger(tmp_path / "gone")
    assert cli.main(["claims", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err.startswith("error: no such folder")
