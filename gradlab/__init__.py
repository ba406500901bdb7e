"""gradlab: is this gradient estimator right, how noisy is it, and in which module of my model?

The names below load on first use (PEP 562), so that ``import gradlab`` costs next to nothing and loads neither torch,
pandas, compressai nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlab import codecs, data, estimators, evaluation, objectives, problems, snr, testing, training
    from gradlab.codecs import Loss
    from gradlab.errors import GradlabError
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

_MODULES = {
    "codecs": "codecs",
    "data": "data",
    "estimators": "estimators",
    "evaluation": "evaluation",
    "latents": "evaluation.latents",
    "objectives": "objectives",
    "paper": "study.paper",
    "problems": "problems",
    "snr": "snr",
    "testing": "testing",
    "training": "training",
}
_OBJECTS = {
    "ESTIMATORS": "estimators",
    "OBJECTIVES": "objectives",
    "PROXIES": "objectives",
    "GradientRecorder": "snr",
    "GradlabError": "errors",
    "LogTerms": "objectives",
    "Loss": "codecs",
    "SNRMonitor": "snr",
    "TrainSettings": "training",
    "compare": "problems.comparison",
    "record": "evaluation.gradients",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from gradlab.runtime.provenance import version

        value: Any = version("gradlab")
    elif path := _MODULES.get(name) or _OBJECTS.get(name):
        try:
            module = importlib.import_module(f"gradlab.{path}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "compressai":
                raise
            from gradlab.errors import GradlabError

            raise GradlabError(f"gl.{name} needs CompressAI, which is not installed: pip install compressai") from None
        value = getattr(module, name) if name in _OBJECTS else module
    else:
        raise AttributeError(f"module 'gradlab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
