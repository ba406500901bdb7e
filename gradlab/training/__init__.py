"""Train codecs: settings, options, a single training loop with steps and hooks, and engines that execute runs.

=============  ========================================================================================
``settings``   ``TrainSettings``: every setting that affects the results of a run; identifies the run
``options``    ``RunOptions``: how a run is executed
``state``      ``TrainState``: codec, optimizer and log; saves and restores itself
``steps``      one iteration without host synchronisation, eager or as a CUDA graph
``hooks``      after each iteration: breakdown detection, log, gradient SNR, snapshots, checkpoints
``breakdown``  detects a breakdown, locates the module and saves the evidence
``loop``       ``train``
``run``        ``Run``: a trained model on disk
``timing``     seconds per iteration of several methods
``engines``    where to execute runs: in this process, in parallel, or on a cluster
``packing``    packs results and weights into a few small files, and unpacks them
=============  ========================================================================================
"""

from __future__ import annotations

from gradlab.codecs import Loss, PlainLoss
from gradlab.training.loop import train
from gradlab.training.options import RunOptions
from gradlab.training.run import Run, run_of
from gradlab.training.settings import TrainSettings, build
from gradlab.training.state import TrainState

__all__ = ["Loss", "PlainLoss", "Run", "RunOptions", "TrainSettings", "TrainState", "build", "run_of", "train"]
