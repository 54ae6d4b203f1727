"""How much could be gained at best, by the analyses that were published. All as per cent of the task's time.

`share` is the part of a task's time that goes to tools; the rest is generation.
"""


def no_tools(share: float) -> float:
    """Tools that take no time at all: a task is 1 / (1 − share) times as fast. No way of running tools early gains
    more; what makes generation faster comes on top."""
    return 100 * share


def speculative_actions(share: float, hit_rate: float) -> float:
    """Speculative Actions (ICLR 2026): the time is 1 − p/(1 + p) · α/(α + β) of what it was, for guesses that come at
    rate α, calls that are answered at rate β, and a share p of right guesses. Here the tool is what is waited for and
    generation what guesses, so that α/(α + β) is the share of the tools."""
    return 100 * hit_rate / (1 + hit_rate) * share


def one_ahead(share: float, hit_rate: float, guess: float = 0.0) -> float:
    """LLNL/UMD (2512.15834): T = αN·max(G, g + T) + (1 − α)N(G + T), for N steps that generate for G and run a tool for
    T, a share α of right guesses, and a guess that takes g (a share of the task's time as well)."""
    generation = 1 - share
    return 100 * hit_rate * (1 - max(generation, guess + share))
