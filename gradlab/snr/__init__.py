"""Signal-to-noise ratio of gradients: its definition, streaming moments, the recorder and the training-time monitor."""

from gradlab.snr.definitions import (
    Spread,
    Tally,
    dead,
    mean_norm,
    merge,
    noise_floor,
    replicate,
    snr,
    snr_corrected,
    tally,
    variance_trace,
)
from gradlab.snr.moments import HigherMoments, Moments
from gradlab.snr.monitor import SNRMonitor
from gradlab.snr.recorder import GradientRecorder

__all__ = [
    "GradientRecorder",
    "HigherMoments",
    "Moments",
    "SNRMonitor",
    "Spread",
    "Tally",
    "dead",
    "mean_norm",
    "merge",
    "noise_floor",
    "replicate",
    "snr",
    "snr_corrected",
    "tally",
    "variance_trace",
]
