"""Measure the signal-to-noise ratio of gradients: definition, streaming moments, recorder, training-time monitor."""

from gradlab.snr.moments import HigherMoments, Moments
from gradlab.snr.monitor import SNRMonitor
from gradlab.snr.recorder import GradientRecorder

__all__ = ["GradientRecorder", "HigherMoments", "Moments", "SNRMonitor"]
