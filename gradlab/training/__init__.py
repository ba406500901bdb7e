"""Training of codecs: settings, options, one loop with its steps and hooks, and engines that execute runs.

=============  ==========================================================================================
``settings``   ``TrainSettings``: the settings that determine the results of a run, and identify it
``options``    ``RunOptions``: how a run is executed
``state``      ``TrainState``: codec, optimizer, log; saves and restores itself
``steps``      one iteration without a host synchronisation, eager or as a CUDA graph
``hooks``      after an iteration: breakdown watch, log, gradient SNR, snapshots, checkpoints
``breakdown``  detects breakdowns, locates the module and saves the evidence
``loop``       ``train``
``run``        ``Run``: a trained model on disk
``timing``     seconds per iteration of several methods
``engines``    where the runs of a study are executed: in this process, side by side, on a cluster
``packing``    results and weights in a few small files, and back into an output folder
=============  ==========================================================================================
"""

from __future__ import annotations

from gradlab.codecs import Loss, PlainLoss
from gradlab.training.loop import train
from gradlab.training.options import RunOptions
from gradlab.training.run import Run, run_of
from gradlab.training.settings import TrainSettings, build
from gradlab.training.state import TrainState

__all__ = ["Loss", "PlainLoss", "Run", "RunOptions", "TrainSettings", "TrainState", "build", "run_of", "train"]
