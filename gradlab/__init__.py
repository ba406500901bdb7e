"""gradlab: is this gradient estimator right, how noisy is it, and in which module of my model?

The names below load on first use (PEP 562), so that ``import gradlab`` costs next to nothing and loads neither torch,
pandas, compressai nor matplotlib.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError, MissingExtra, missing, needs

if TYPE_CHECKING:
    from gradlab import codecs, data, estimators, evaluation, objectives, problems, snr, testing, training
    from gradlab.codecs import Loss
    from gradlab.estimators import ESTIMATORS
    from gradlab.evaluation import latents
    from gradlab.evaluation.gradients import record
    from gradlab.objectives import OBJECTIVES, PROXIES, LogTerms
    from gradlab.problems.comparison import compare
    from gradlab.snr import GradientRecorder, SNRMonitor
    from gradlab.study import paper
    from gradlab.training import TrainSettings, train

    __version__: str

__all__ = [
    "ESTIMATORS",
    "OBJECTIVES",
    "PROXIES",
    "GradientRecorder",
    "GradlabError",
    "LogTerms",
    "Loss",
    "SNRMonitor",
    "TrainSettings",
    "__version__",
    "codecs",
    "compare",
    "data",
    "estimators",
    "evaluation",
    "latents",
    "objectives",
    "paper",
    "problems",
    "record",
    "snr",
    "testing",
    "train",
    "training",
]

_HOMES = {
    "ESTIMATORS": "estimators",
    "OBJECTIVES": "objectives",
    "PROXIES": "objectives",
    "GradientRecorder": "snr",
    "LogTerms": "objectives",
    "Loss": "codecs",
    "SNRMonitor": "snr",
    "TrainSettings": "training",
    "compare": "problems.comparison",
    "latents": "evaluation.latents",
    "paper": "study.paper",
    "record": "evaluation.gradients",
    "train": "training",
}
"""The module that holds each name, or is it; other names are packages of gradlab."""

_CODECS = {"Loss", "TrainSettings", "codecs", "evaluation", "latents", "record", "train", "training"}
"""Names that need the extra ``[codecs]``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gradlab' has no attribute {name!r}")
    if name == "__version__":
        from gradlab.runtime.provenance import version

        value: Any = version("gradlab")
    else:
        try:
            with needs(f"gl.{name}"):
                module = importlib.import_module(f"gradlab.{_HOMES.get(name, name)}")
        except MissingExtra as error:  # of a package further down
            raise missing(f"gl.{name}", str(error.name)) from None
        value = vars(module).get(name, module)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Leave out names that need an extra which is not installed, so that ``help(gradlab)`` works."""
    names = {*globals(), *__all__}
    return sorted(names if importlib.util.find_spec("compressai") else names - _CODECS)
