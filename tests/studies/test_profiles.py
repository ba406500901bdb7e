"""What the profiles train: each model once, and in profile paper by Appendix A.5 to the letter."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradlab.errors import GradlabError
from gradlab.runtime import digests, provenance
from gradlab.study import Request, catalog, models
from gradlab.training.settings import WARM_UP
from gradlab_studies import _methods as methods

SHARING = ("table1", "table2", "table3", "weights", "figure3", "table6", "table10", "table11", "figure4", "table7")


class Asked(Exception):
    pass


@pytest.fixture
def trained(monkeypatch):
    """Every model that a study asks for in a profile, by method; nothing is trained."""

    def of(study, profile):
        found = []

        def record(context, wanted, **how):
            found.extend(wanted)
            raise Asked

        module = importlib.import_module(f"gradlab_studies.{study}")
        monkeypatch.setattr(models, "train_all", record)
        with pytest.raises(Asked):
            module.measure(module.PROFILES[profile], SimpleNamespace(seed=0, test_images=None, inputs={}))
        return found

    return of


# Tables 1 and 2: 3 (5 with both weightings) and 1; latents: DMS (and MIX where k is not Table 1's); Table 7: the rest.
@pytest.mark.parametrize(
    ("profile", "models_of_all"), [("quick", 4 + 1 + 5), ("gpu", 6 + 2 + 13), ("paper", 6 + 2 + 13)]
)
def test_models_are_shared_between_studies(trained, profile, models_of_all):
    wanted = [settings for study in SHARING for _, settings in trained(study, profile)]
    hashes = {provenance.settings_hash(settings) for settings in wanted}
    assert len(hashes) == models_of_all
    # Nor is one trained twice to two different ends: but for its length every model is another.
    ends = {provenance.settings_hash(replace(s, steps=10**9, snapshots=())) for s in wanted}
    assert len(ends) == models_of_all


@pytest.mark.parametrize("profile", ["quick", "gpu", "paper"])
def test_what_is_read_was_kept(trained, profile):
    """Table 7 and the latents read models where they have a snapshot or end."""
    from gradlab_studies import _latents, table7

    for variant in table7.variants(table7.PROFILES[profile]):
        (iteration,) = variant.points
        assert iteration == variant.settings.steps or iteration in variant.settings.snapshots
    latent = _latents.PROFILES[profile]
    for _, settings in _latents.trained(latent):
        assert latent.iterations == settings.steps or latent.iterations in settings.snapshots


EPOCH = 8000 // 8  # iterations: the largest 8000 images, in batches of 8 (the paper names no batch size)


def test_profile_paper_is_appendix_a5(trained):
    """Adam with betas 0.90, 0.95; 1e-4, linear in the sample size; 2000 epochs, of which 200 on the cosine."""
    for study in SHARING:
        for name, s in trained(study, "paper"):
            name = name.partition(",")[0]
            size = s.batch // 8 if name == methods.BIG_BATCH else s.loss.k
            assert s.betas == (0.90, 0.95), (study, name)
            assert s.rate_at(WARM_UP) == pytest.approx(1e-4 * size, rel=2e-3), (study, name)
            assert s.rate_at(0) == pytest.approx(1e-4 * size / (WARM_UP if size > 1 else 1)), (study, name)
            assert s.batch == (8 * size if name == methods.BIG_BATCH else 8)
            epoch = 8000 / s.batch
            assert s.steps == int(2000 * epoch) and s.cosine_steps == int(200 * epoch)
            assert (
                s.rate_at(s.cosine_steps)
                == s.rate_at(s.steps - 1)
                < s.rate_at(s.cosine_steps // 2)
                < s.rate_at(WARM_UP)
            )
            assert (s.codec, s.channels, s.lam, s.crop) == ("bmshj2018-hyperprior", (128, 192), 0.015, 256)
            assert s.loss.estimator == ("dreg-squared" if name == methods.MIX_DREG else "pathwise")
            if name == methods.DMS:
                assert s.loss.k == s.loss.l and s.loss.objective == "ms-nic-dms"
            if name == methods.IWAE:
                assert s.loss.objective == "iwae-2level" and not s.direct_y
            if s.loss.objective == "ms-nic-mix" and study != "table1":
                assert (s.loss.weighting, s.loss.scale) == ("per-term", "bpp")


def test_profile_quick_compares_sample_sizes_at_one_learning_rate(trained):
    rates = {tuple(map(s.rate_at, (0, 500, 899))) for study in SHARING for _, s in trained(study, "quick")}
    assert len(rates) == 1


def test_profile_stay_trains_six_models_alike(trained):
    """The paper's model and crops; but for the loss and the switch they differ in nothing."""
    studies = ("table1", "table2", "table3", "table6", "table10", "figure3")
    found = {s for study in studies for _, s in trained(study, "stay")}
    assert len(found) == 6
    assert len({replace(s, loss=methods.STAY.loss, direct_y=True) for s in found}) == 1
    for s in found:
        assert (s.codec, s.channels, s.lam, s.crop) == ("bmshj2018-hyperprior", (128, 192), 0.015, 256)
        assert not s.scale_learning_rate and s.cosine_steps == s.steps and set(s.snapshots) < set(range(s.steps))


@pytest.mark.parametrize("profile", ["stay", "gpu"])
def test_what_was_published_from_an_accelerator_is_of_its_profile(profile):
    folders = [
        f for f in (Path(__file__).parents[2] / "figures" / profile).iterdir() if f.is_dir() and f.name != "runs"
    ]
    assert folders
    for folder in folders:
        record = digests.read_record(folder)
        settings = importlib.import_module(f"gradlab_studies.{folder.name}").PROFILES[profile]
        assert record["settings_hash"] == provenance.settings_hash(settings), folder.name
        for name in record[digests.FILES]:
            digests.read_table(folder / name, record)
        if profile == "stay":  # one seed decides nothing
            assert set(digests.read_table(folder / "verdicts.csv", record)["holds"]) == {"undecided"}


def test_profile_gpu_is_the_beginning_of_profile_paper(trained):
    """But for the big batches of Table 7, which profile paper trains for as many epochs instead of iterations."""
    open_end = {"steps": 10**9, "snapshots": ()}
    for study in SHARING:
        paper = {provenance.settings_hash(replace(s, **open_end)) for _, s in trained(study, "paper")}
        for name, s in trained(study, "gpu"):
            if not name.startswith(methods.BIG_BATCH):
                assert provenance.settings_hash(replace(s, **open_end)) in paper, (study, name)
                assert s.steps <= methods.GPU.steps == 50_000


def test_table3_calls_the_papers_early_point_by_its_name():
    from gradlab_studies import table3

    settings = table3.PROFILES["gpu"]
    assert dict(zip(settings.points, settings.stages, strict=True))[50_000] == "early"


def test_profile_paper_has_the_papers_sample_sizes():
    from gradlab_studies import _latents, table1, table7

    assert table1.PROFILES["paper"].k == 5  # Table 1
    assert (_latents.PROFILES["paper"].k, _latents.PROFILES["paper"].k_dms) == (8, 16)  # section 5.2
    assert table7.PROFILES["paper"].sizes == ((3, 5, 8, 16),) * 4
    assert methods.PAPER.steps == 2000 * EPOCH and methods.PAPER.cosine_steps == 200 * EPOCH


def test_a_big_batch_of_as_many_epochs():
    base = replace(methods.PAPER, snapshots=(80, 160), steps=800, cosine_steps=80)
    big = methods.same_epochs(methods.method(base, methods.BIG_BATCH, 8), 8)
    assert (big.batch, big.steps, big.cosine_steps, big.snapshots) == (64, 100, 10, (10, 20))
    assert big.learning_rate == pytest.approx(8e-4)


@pytest.mark.parametrize(
    ("study", "given", "sentence"),
    [
        ("table1", "base.data=x", "--set base.data would be overwritten: give --train-images instead"),
        ("table1", "base.seed=1", "--set base.seed would be overwritten: give --seed instead"),
        ("reconstructions", "models.base.seed=1", "--set models.base.seed would be overwritten: give --seed instead"),
        ("table1", "points=(5,)", "no weights are saved after 5 iterations: give some of 900, 1800, 2700, 3600"),
        ("table2", "points=(900, 4000)", "no weights are saved after 4000 iterations"),
        ("table3", "points=(900, 901, 902)", "no weights are saved after 901 iterations"),
        ("table3", "stages=('-',)", "there are 1 stages for 3 points: give one per point"),
        ("table3", "stages=('-','-','soon')", "unknown stage 'soon'"),
        ("table3", "draws=1", "draws is 1: a signal-to-noise ratio needs at least 2"),
        ("table3", "draws=(9, 9, 1)", "draws is 1: a signal-to-noise ratio needs at least 2"),
        ("table3", "draws=()", "--set draws is empty: give at least one value, e.g. (256,)"),
        ("table3", "points=(900, 900, 3600)", "iteration 900 is given 2 times: give it once"),
        ("table2", "points=(900, 3600, 900)", "iteration 900 is given 2 times: give it once"),
        ("table3", "draws=(9, 9)", "there are 2 draws for 3 points: give one per point"),
        ("figure3", "iterations=7", "no weights are saved after 7 iterations"),
        ("figure4", "iterations=7", "no weights are saved after 7 iterations"),
        ("table11", "iterations=7", "no weights are saved after 7 iterations"),
        ("table7", "iterations=7", "no weights are saved after 7 iterations"),
        ("table8", "points=(5,)", "no weights are saved after 5 iterations: give some of 750, 1000"),
        ("autoencoders", "points=(7,)", "no weights are saved after 7 iterations"),
    ],
)
def test_settings_that_no_study_could_read_are_refused_before_training(study, given, sentence):
    with pytest.raises(GradlabError, match=re.escape(f"{study}: {sentence}")):
        catalog.load([study], Request(assignments=(given,)))


def test_a_setting_of_a_study_may_be_called_as_an_option_decides_elsewhere():
    catalog.load(["snr-scaling"], Request(assignments=("data=32",)))
