"""Training codecs: settings, options, one loop, its steps and its hooks, and where runs are done.

=============  ==========================================================================================
``settings``   ``TrainSettings``: what decides the numbers of a run, and identifies it
``options``    ``RunOptions``: how it is done
``state``      ``TrainState``: codec, optimizer, log; saves and restores itself
``steps``      one iteration without a host synchronisation, eager or as a CUDA graph
``hooks``      after an iteration: breakdown watch, log, gradient SNR, snapshots, checkpoints
``loop``       ``train``
``run``        ``Run``: a trained model on disk
``engines``    where the runs of a study are done: here, side by side, on a cluster
``packing``    results and weights in a few small files, and back into an output folder
``breakdown``  notices that training breaks down, finds the module and saves the evidence
``timing``     seconds that a training step takes
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
