"""What looks like a secret, and is therefore never kept as a constant. A false alarm costs one pattern, no more."""

import math
import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from typing import Any

_NAME_WORDS = frozenset(
    (
        *("password", "passwd", "passphrase", "pwd", "pin", "otp", "secret", "secrets", "token", "apikey"),
        *("authorization", "auth", "bearer", "cookie", "credential", "credentials", "signature"),
    )
)
_NAME_PAIRS = ("api_key", "access_key", "private_key", "secret_key")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MARKED = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|authorization|api[_-]?key|credentials?|cookie)[\"']?\s*[=:]\s*\S"
    r"|\b(?:bearer|basic)\s+\S{6}"
    r"|://[^/\s:@]+:[^/\s@]+@"
    r"|-----BEGIN"
    r"|\b(?:sk|pk|rk|ghp|gho|ghs|glpat|xox[abprs]|AKIA|ASIA|AIza|hf|npm|pypi)[-_]?[A-Za-z0-9_-]{12}"
    r"|\beyJ[A-Za-z0-9_-]{8}"
    r"|github_pat_"
)
_RUN = re.compile(r"[A-Za-z0-9_+=-]{20,}")


@lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether a key of that name usually holds a secret: `password`, `apiKey`, `X-Auth-Token`; not `max_tokens`."""
    flat = re.sub(r"[^a-z0-9]+", "_", _CAMEL.sub("_", name).lower())
    return any(pair in flat for pair in _NAME_PAIRS) or not _NAME_WORDS.isdisjoint(flat.split("_"))


def is_secret_text(text: str) -> bool:
    """Whether the text contains a credential: marked as one, of a known prefix, or long and of high entropy."""
    return _MARKED.search(text) is not None or any(_is_random(run) for run in _RUN.findall(text))


def holds_secret(value: Any) -> bool:
    """Whether a JSON value holds a secret anywhere, under a secret's name or as a text that looks like one."""
    if isinstance(value, str):
        return is_secret_text(value)
    if isinstance(value, list):
        return any(holds_secret(item) for item in value)
    if isinstance(value, dict):
        return any(is_secret_name(key) or is_secret_text(key) or holds_secret(item) for key, item in value.items())
    return False


def _is_random(run: str) -> bool:
    letters = sum(char.isalpha() for char in run)
    digits = sum(char.isdigit() for char in run)
    if not letters and not digits:
        return False
    switches = sum(a.isalpha() and b.isalpha() and a.isupper() != b.isupper() for a, b in pairwise(run))
    mixed = digits >= max(3, len(run) // 16) or switches >= len(run) // 3
    return mixed and _entropy(run) >= 2.8


def _entropy(text: str) -> float:
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
