"""In which order waiting requests are prefilled: those first whose next tool call is worth most for what they cost the
engine, and that cost it least; nobody waits for longer than a bound because of that."""

from collections.abc import Sequence

import msgspec

MIN_POOL_SHARE = 0.01


class Rates(msgspec.Struct, frozen=True):
    """Tokens per second the engine was measured at, in prefill and for one request's decode."""

    prefill: float = 2000.0
    decode: float = 20.0


class Weights(msgspec.Struct, frozen=True):
    """`beta` weighs the tool time that is gained per engine second, `alpha` the seconds waited, `gamma` the seconds of
    prefill that all others would wait for. From `bound` seconds on, a request goes before all that have not waited so
    long."""

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 4.0
    bound: float = 5.0


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A waiting request: seconds it has waited, tokens it has yet to prefill, tokens it will decode, tokens of the pool
    it will hold as a share of all; and, of the call its session makes next, the odds that it was run early and the
    seconds it takes."""

    waited: float
    new_tokens: int
    out_tokens: int
    pool_share: float
    hit_probability: float = 0.0
    tool_seconds: float = 0.0


def utility(request: Waiting, rates: Rates, weights: Weights) -> float:
    """β · p_hit · T_tool / (T_LLM · KV share) + α · waited − γ · T_prefill; the first term is at most β · `bound`, so
    that a gain never outweighs the bound."""
    prefill_seconds = request.new_tokens / rates.prefill
    engine_seconds = prefill_seconds + request.out_tokens / rates.decode
    cost = max(engine_seconds, 1e-3) * max(request.pool_share, MIN_POOL_SHARE)
    gain = min(request.hit_probability * request.tool_seconds / cost, weights.bound)
    return weights.beta * gain + weights.alpha * request.waited - weights.gamma * prefill_seconds


def order(requests: Sequence[Waiting], rates: Rates, weights: Weights) -> list[int]:
    """The places of `requests` (which stand in the order of their arrival) in the order in which they should go."""
    overdue = [place for place, each in enumerate(requests) if each.waited >= weights.bound]
    late = set(overdue)
    others = [place for place in range(len(requests)) if place not in late]
    others.sort(key=lambda place: -utility(requests[place], rates, weights))
    return overdue + others
