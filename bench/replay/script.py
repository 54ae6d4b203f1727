"""What the model says in a recording, as the ids of its tokenizer and in the words of its chat template."""

import json
from pathlib import Path
from typing import Any

from bench.replay.recording import Answer, Recording

Message = dict[str, Any]


class Speaker:
    """The tokenizer and the chat template of a model's folder."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(model))
        self.context = int(json.loads((model / "config.json").read_text())["max_position_embeddings"])
        template = model / "chat_template.jinja"
        if template.exists():
            self._tokenizer.chat_template = template.read_text()

    def ids(self, recording: Recording) -> list[list[int]]:
        """What is said in each of its answers, the end token included."""
        return [self._ids(answer) for answer in recording.answers]

    def length(self, recording: Recording, offered: list[dict[str, Any]]) -> int:
        """Tokens of its last prompt with the answer to it."""
        told: list[Message] = []
        for answer in recording.answers:
            told += [*answer.arrives, _message(answer)]
            told += [{"role": "tool", "content": call.result} for call in answer.calls]
        return len(self._tokenizer.encode(self._render(told, tools=offered), add_special_tokens=False))

    def _ids(self, answer: Answer) -> list[int]:
        asked: list[Message] = [{"role": "user", "content": "?"}]
        before = self._render(asked, add_generation_prompt=True)
        after = self._render([*asked, _message(answer)])
        if not after.startswith(before):
            raise SystemExit("the chat template does not put an answer behind its opening; use another model")
        said = after.removeprefix(before).rstrip("\n")
        return list(self._tokenizer.encode(said, add_special_tokens=False))

    def _render(self, messages: list[Message], **more: Any) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **more))


def offered(schemas: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a chat request offers them."""
    return [
        {"type": "function", "function": {"name": name, "description": f"The tool {name}.", "parameters": schema}}
        for name, schema in schemas.items()
    ]


def is_said(answer: Answer, content: str, calls: list[tuple[str, str]]) -> bool:
    """Whether an answer is the recorded one, but for the white space around its text."""
    try:
        found = [(name, json.loads(arguments or "{}")) for name, arguments in calls]
    except ValueError:
        return False
    return content.strip() == answer.content.strip() and found == [(call.tool, call.arguments) for call in answer.calls]


def _message(answer: Answer) -> Message:
    message: Message = {"role": "assistant", "content": answer.content.strip()}
    if answer.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.tool, "arguments": call.arguments}} for call in answer.calls
        ]
    return message
