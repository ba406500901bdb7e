"""Signal-to-noise ratio of gradients: its definition, streaming moments, the recorder and the training-time monitor."""

from gradlab.snr.moments import HigherMoments, Moments
from gradlab.snr.monitor import SNRMonitor
from gradlab.snr.recorder import GradientRecorder

__all__ = ["GradientRecorder", "HigherMoments", "Moments", "SNRMonitor"]
