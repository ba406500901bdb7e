"""gradlab: is this gradient estimator right, how noisy is it, and in which module of my model?

The names below load on first use (PEP 562), so that ``import gradlab`` costs next to nothing and loads neither torch,
pandas, compressai nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlab import codecs, data, evaluation, latents, paper, problems, training
    from gradlab.codecs import Loss
    from gradlab.comparison import compare
    from gradlab.errors import GradlabError
    from gradlab.estimators import ESTIMATORS
    from gradlab.live import SNRMonitor
    from gradlab.objectives import OBJECTIVES
    from gradlab.proxies import PROXIES
    from gradlab.recorder import GradientRecorder
    from gradlab.recording import record
    from gradlab.terms import LogTerms
    from gradlab.training import train

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
    "__version__",
    "codecs",
    "compare",
    "data",
    "evaluation",
    "latents",
    "paper",
    "problems",
    "record",
    "train",
    "training",
]

_MODULES = ("codecs", "data", "evaluation", "latents", "paper", "problems", "training")
_OBJECTS = {
    "ESTIMATORS": "gradlab.estimators",
    "OBJECTIVES": "gradlab.objectives",
    "PROXIES": "gradlab.proxies",
    "GradientRecorder": "gradlab.recorder",
    "GradlabError": "gradlab.errors",
    "LogTerms": "gradlab.terms",
    "Loss": "gradlab.codecs",
    "SNRMonitor": "gradlab.live",
    "compare": "gradlab.comparison",
    "record": "gradlab.recording",
    "train": "gradlab.training",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = importlib.import_module(f"gradlab.{name}")
    elif name in _OBJECTS:
        value = getattr(importlib.import_module(_OBJECTS[name]), name)
    elif name == "__version__":
        from gradlab.results import version

        value = version("gradlab")
    else:
        raise AttributeError(f"module 'gradlab' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
