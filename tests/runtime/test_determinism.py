"""The same numbers again: by --deterministic to the byte, over thread counts to a tolerance, in any order of studies."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from gradlab import compare, data, evaluation, problems, training
from gradlab.errors import GradlabError
from gradlab.runtime import determinism, files
from gradlab.study import Request, plots, runner
from gradlab.training import RunOptions
from tests.study.fake_studies import studies
from tests.training.test_training import TINY

__all__ = ["studies"]  # a fixture

TABLES = ("table1", "table2", "bounds")
"""Two that train, and share a model; one that is exact."""


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that runs studies at their smallest, on two small photographs."""
    root = tmp_path_factory.mktemp("photographs")
    for purpose in ("train", "test"):
        (root / purpose).mkdir()
        for picture in data.embedded(purpose)[:2]:
            pixels = picture.pixels[:, :128, :128].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / purpose / f"{Path(picture.name).stem}.png")

    def run(names: tuple[str, ...], out: Path, **options: Any) -> dict[str, bytes]:
        modules = [importlib.import_module(f"gradlab_studies.{name}") for name in names]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plots, "save", lambda figure, path: [])  # the tables are compared
            for module in modules:
                patch.setitem(module.PROFILES, "quick", module.SMALLEST)
            folders = {"train_images": root / "train", "test_images": root / "test"}
            assert runner.run(names, Request(**folders, **options), out, console=Console(file=io.StringIO())) == 0
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in out.glob("*/*.csv")}

    return run


@pytest.mark.slow
def test_what_else_is_run_and_in_which_order_changes_no_byte(smallest: Any, tmp_path: Path) -> None:
    together = smallest(TABLES, tmp_path / "together")
    assert {name.partition("/")[0] for name in together} == set(TABLES)
    for number, names in enumerate((TABLES[:0:-1], TABLES[:1])):
        found = smallest(names, tmp_path / str(number))
        assert found and found == {name: together[name] for name in found}


def test_deterministic_gives_the_same_bytes_and_says_so(smallest: Any, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        once, again = (smallest(("weights",), tmp_path / name, deterministic=True) for name in ("once", "again"))
        assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
    assert once == again
    record = files.read_json(tmp_path / "once" / "weights" / "provenance.json")
    assert record["deterministic"] is True


def test_what_deterministic_sets_is_set_back() -> None:
    cudnn = torch.backends.cudnn
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
    )
    with determinism.deterministic_mode():
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()
        assert cudnn.deterministic and not cudnn.benchmark
    after = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        cudnn.benchmark,
        cudnn.deterministic,
    )
    assert before == after


def test_an_operation_without_a_fixed_order_is_refused(studies: Path) -> None:
    """torch's own error for put_ without accumulate, which is one on every device."""
    text = (studies / "an_other.py").read_text()
    body = "import torch\n    torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))\n    return {"
    (studies / "table2.py").write_text(text.replace("return {", body).replace('"an-other":', '"table2":'))
    assert runner.run(["table2"], out="a", console=Console(file=io.StringIO())) == 0
    message = (
        r"^table2: put_.* does not have a deterministic implementation.*: give --device cpu, or leave out --determin"
    )
    with pytest.raises(GradlabError, match=message):
        runner.run(["table2"], Request(deterministic=True), "b", console=Console(file=io.StringIO()))


@pytest.mark.slow
def test_over_thread_counts_the_first_iterations_and_the_evaluation_agree(
    pictures: list[data.Picture], tmp_path: Path
) -> None:
    """What docs/reliability.md promises; the end of a long training run is not promised."""
    settings = replace(TINY, steps=10, snapshots=(), channels=(16, 24), crop=64)
    toy, threads, tables, qualities, toys = problems.BoxGaussian(phi=0.3, x=1.0), torch.get_num_threads(), [], [], []
    codec = training.train(settings, pictures, tmp_path / "weights").codec()
    small = [pictures[0]._replace(pixels=pictures[0].pixels[:, :192, :192])]
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            run = training.train(settings, pictures, tmp_path / str(count), RunOptions(log_every=1))
            tables.append(files.read_csv(run.folder / "log.csv")[["loss", "bpp", "mse", "gradient_norm"]])
            qualities.append(evaluation.rate_distortion(codec, small, settings.lam).drop(columns="image"))
            found = compare(toy, ("pathwise", "dreg"), k=(1, 8), draws=20_000, allow_biased=True)
            toys.append(found[["mean", "variance", "exact_mean"]])
    finally:
        torch.set_num_threads(threads)
    assert (tables[0] / tables[1] - 1).abs().to_numpy().max() < 1e-5
    assert (qualities[0] / qualities[1] - 1).abs().to_numpy().max() < 1e-4
    assert (toys[0] / toys[1] - 1).abs().to_numpy().max() < 1e-9
