"""What a client collects of a streamed chat answer."""

import time
from typing import Any


class Collected:
    """An answer as its chunks come in: its id, text, calls (id, name, arguments) and usage, and when it came."""

    def __init__(self) -> None:
        self.rid, self.content = "", ""
        self.first = self.ended = 0.0
        self._usage: dict[str, Any] = {}
        self._calls: list[list[str]] = []

    def stamp(self) -> None:
        """Something came, now."""
        self.ended = time.monotonic()
        self.first = self.first or self.ended

    def add(self, chunk: dict[str, Any]) -> None:
        """A chunk as the API documents it; one that is an error is not for here."""
        self.rid, self._usage = chunk["id"], chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            self.content += choice["delta"].get("content") or ""
            for delta in choice["delta"].get("tool_calls") or ():
                self._add_call(delta)

    @property
    def calls(self) -> tuple[tuple[str, str, str], ...]:
        return tuple((call_id, name, arguments) for call_id, name, arguments in self._calls)

    @property
    def prompt(self) -> int:
        return int(self._usage["prompt_tokens"])

    @property
    def cached(self) -> int:
        """How many of the prompt's tokens were in the cache."""
        return int((self._usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    @property
    def completion(self) -> int:
        return int(self._usage["completion_tokens"])

    def _add_call(self, delta: dict[str, Any]) -> None:
        while len(self._calls) <= delta["index"]:
            self._calls.append(["", "", ""])
        call = self._calls[delta["index"]]
        call[0] = delta.get("id") or call[0]
        call[1] = delta["function"].get("name") or call[1]
        call[2] += delta["function"].get("arguments") or ""


def assistant_message(content: str, calls: tuple[tuple[str, str, str], ...]) -> dict[str, Any]:
    """The message with which a client sends an answer back."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}
            for call_id, name, arguments in calls
        ]
    return message
