"""What a step of the engine takes, learned from the steps it has taken."""

from typing import NamedTuple

import numpy as np

# Seconds: for a step, per request, per row beside the requests' first, per 1,000 tokens of context, for verifying, and
# for verifying per 1,000 tokens of context. Only what is right for this machine matters, and that is learned.
PRIOR = (0.02, 0.001, 0.004, 0.001, 0.0, 0.0)
DOUBT = 4.0
DRIFT = 0.02
NOISE = 0.1
OUTLIER = 3.0


class Step(NamedTuple):
    """A step for `batch` requests of `width` rows each, which have `context` tokens all together. At width 1 it is a
    plain decode step."""

    batch: int
    width: int
    context: int


class Cost:
    """A Kalman filter over a linear model of seconds per step. It follows a machine that becomes faster or slower."""

    def __init__(self) -> None:
        self._mean = np.array(PRIOR)
        self._spread = np.diag((DOUBT * np.maximum(self._mean, 0.0005)) ** 2)
        self._drift = np.diag((DRIFT * np.maximum(self._mean, 0.0005)) ** 2)
        self._seen = 0

    def seconds(self, step: Step) -> float:
        """What such a step takes; never nothing."""
        return max(float(_features(step) @ self._mean), 1e-6)

    def observe(self, step: Step, seconds: float) -> None:
        """Learn from a step. One that took far longer than its like was held up by something else and is cut short."""
        features = _features(step)
        if self._seen > 8:
            seconds = min(seconds, OUTLIER * self.seconds(step))
        self._seen += 1
        self._spread += self._drift
        toward = self._spread @ features
        gain = toward / (float(features @ toward) + (NOISE * seconds) ** 2)
        self._mean = self._mean + gain * (seconds - float(features @ self._mean))
        self._spread -= np.outer(gain, toward)


def _features(step: Step) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    thousands, verify = step.context / 1000, float(step.width > 1)
    extra = step.batch * (step.width - 1)
    return np.array((1.0, step.batch, extra, thousands, verify, verify * thousands))
