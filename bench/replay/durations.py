"""How long a tool runs where the recording does not say: drawn from its kind's distribution, the same every time."""

import hashlib
import math
from statistics import NormalDist

from bench.replay.effects import Kind

# Median and 90th percentile in seconds. Shells, files and agents: a thousand calls and more of recorded coding agents.
# The web: 6 and 60 s in a trace of 433,000 calls (TraceLab), of which the upper part is left out here. Interfaces and
# analyses: what such services promise; nobody recorded them.
QUANTILES: dict[Kind, tuple[float, float]] = {
    "nothing": (0.001, 0.002),
    "file": (0.02, 0.06),
    "api": (0.4, 1.2),
    "analysis": (0.8, 3.0),
    "web": (2.0, 6.0),
    "shell": (1.9, 10.2),
    "agent": (20.0, 60.0),
}
# Less was measured of a table in memory that stood for a service, or of nothing.
LEAST_RECORDED_S: dict[Kind, float] = {"api": 0.01, "web": 0.01}
LEAST_S = 0.001
_NORMAL = NormalDist()
_TAILS = 0.05


def fitted(kind: Kind, *what: object) -> float:
    """Seconds of the call that `what` names, lognormal, without the 5 % on either side."""
    median, high = QUANTILES[kind]
    sigma = math.log(high / median) / _NORMAL.inv_cdf(0.9)
    return median * math.exp(sigma * _NORMAL.inv_cdf(_TAILS + (1 - 2 * _TAILS) * uniform(*what)))


def uniform(*what: object) -> float:
    """A number from 0 to 1 that depends on what it is for alone."""
    digest = hashlib.blake2b("\0".join(map(str, what)).encode("utf-8", "replace"), digest_size=7).digest()
    return (int.from_bytes(digest) + 0.5) / 2**56
