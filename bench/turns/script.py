"""Sessions written in advance: what the tools return, what the model answers, and how long each tool runs.

Both sides of a bench play the same script. Sizes are lognormal, as those of recorded coding agents are: half of the
results have less than a third of the mean, few are very long. They are scaled so that the session ends as long as it
is wanted.
"""

import json
import math
import random
from collections.abc import Sequence

import msgspec

from bench.turns.session import text

# Median seconds of each tool; a call takes e^(±0.5) times that in two cases of three.
TOOL_SECONDS = {
    "read_file": 0.05,
    "list_files": 0.05,
    "search": 0.1,
    "write_file": 0.1,
    "apply_patch": 0.2,
    "run_tests": 1.0,
}
LONGEST_S = 3.0
_CALLED = ("read_file", "read_file", "run_tests", "search", "apply_patch", "run_tests", "list_files", "write_file")
_RESULT_SIGMA = 1.5
_ANSWER, _TOOLS = 45, 1_000


class Step(msgspec.Struct, frozen=True):
    """A turn: the text that starts it, `absence` seconds after the last one ended, and the model's answer. `call` is
    the tool and the arguments' JSON that end the answer; a session's last turn has none."""

    arrives: str
    answer: str
    absence: float = 0.0
    call: tuple[str, str] | None = None

    @property
    def said(self) -> str:
        """The answer as the model writes it."""
        if self.call is None:
            return self.answer
        tool, arguments = self.call
        return f'{self.answer}\n<tool_call>{{"name":"{tool}", "arguments":{arguments}}}</tool_call>'


class Script(msgspec.Struct, frozen=True):
    """A session; the first step's text is the user's task."""

    system: str
    steps: tuple[Step, ...]


def write(
    seed: str,
    growth: Sequence[int],
    *,
    first: int,
    said: int = 0,
    system: str | None = None,
    tools: Sequence[str] = _CALLED,
) -> Script:
    """A session whose first prompt has about `first` tokens, half of them in its system prompt, whose following results
    have these, and whose answers say about `said` before they call one of `tools`."""
    source = random.Random(seed)
    system = text(source, first // 2) if system is None else system
    steps: list[Step] = []
    absence = 0.0
    # The tools are in the first prompt as well.
    for number, size in enumerate((max(first // 2 - _TOOLS, 25), *growth)):
        last = number == len(growth)
        tool = source.choice(tools)
        call = None if last else (tool, json.dumps({"path": f"src/{source.randrange(1000)}.py"}))
        answer = "I look at what comes next." + (f"\n{text(source, said)}" if said else "")
        steps.append(Step(text(source, size), answer, absence, call))
        absence = min(LONGEST_S, TOOL_SECONDS[tool] * math.exp(source.gauss(0.0, 0.5)))
    return Script(system, tuple(steps))


def sizes(seed: str, turns: int, total: int) -> list[int]:
    """Sizes of the results of `turns` turns, which grow a session by about `total` tokens, answers included."""
    source = random.Random(seed)
    drawn = [source.lognormvariate(0.0, _RESULT_SIGMA) for _ in range(turns - 1)]
    scale = max(total - _ANSWER * len(drawn), 25 * len(drawn)) / sum(drawn)
    return [max(25, round(scale * each)) for each in drawn]
