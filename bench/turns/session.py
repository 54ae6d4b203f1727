"""A made-up coding session of any length, as the messages of the chat API."""

import json
import random
from typing import Any

Message = dict[str, Any]
_NEW, _OUT = 875, 214
_LINES = (
    "def total(self, items: list[Item]) -> Decimal:",
    "    return sum((item.price * item.count for item in items), Decimal(0))",
    "        raise ValueError(f\"unknown code {code!r}; choose one of {', '.join(CODES)}\")",
    "src/shop/invoices.py:118: error: Argument 1 has incompatible type",
    "tests/test_invoices.py::test_rounding FAILED [ 42%]",
    "I look at how the total is rounded before I change the test.",
    "from collections.abc import Iterable, Mapping",
    "    # The discount is applied once, to the sum.",
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The tool that can {name.replace('_', ' ')}. " + " ".join(_LINES[5:6] * 6),
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
                "required": ["path"],
            },
        },
    }
    for name in ("read_file", "write_file", "run_tests", "search", "list_files", "apply_patch")
]


class Session:
    """Turns of a session: each has an answer with a call, and its result. Token counts are near, not exact."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        system, task = text(self._random, 2_000), text(self._random, 300)
        self.messages: list[Message] = [{"role": "system", "content": system}, {"role": "user", "content": task}]

    def grow(self, tokens: int) -> None:
        """Add turns worth about as many tokens."""
        for _ in range(tokens // (_NEW + _OUT)):
            self.turn()

    def turn(self, answer: str | None = None) -> None:
        """One more turn; `answer` is the text before its call."""
        number = len(self.messages)
        arguments = json.dumps({"path": f"src/{number}.py", "text": text(self._random, 75)})
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "read_file", "arguments": arguments}}
        said = text(self._random, _OUT - 100) if answer is None else answer
        self.messages.append({"role": "assistant", "content": said, "tool_calls": [call]})
        self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": text(self._random, _NEW)})


def text(source: random.Random, tokens: int) -> str:
    """Lines of about so many tokens."""
    lines: list[str] = []
    # A line of these is about 25 tokens.
    for _ in range(max(1, tokens // 25)):
        lines.append(f"{source.choice(_LINES)}  # {source.randrange(10_000)}")
    return "\n".join(lines)
