"""An agent loop as people write it: the `openai` client for the model, HTTP for the tools."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from demo.tasks import SYSTEM, Task

WORKSPACE = Path(__file__).parent / "workspace"
MAX_CALL_TOKENS = 160
MAX_ANSWER_TOKENS = 48


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A turn of the model and the call it ended in, in CLOCK_MONOTONIC seconds; the last step has no tool."""

    asked: float
    generated: float
    returned: float
    tool: str = ""
    arguments: str = ""
    content: str = ""
    outcome: str = ""

    @property
    def seconds(self) -> float:
        return self.returned - self.asked


class TaskRun(msgspec.Struct, frozen=True, kw_only=True):
    """One task, done once on one side."""

    task: str
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """Seconds from a step's request to its tool's result, over all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def exposed(self) -> float:
        """Seconds in which the agent did nothing but wait for tools."""
        return sum(step.returned - step.generated for step in self.steps)

    @property
    def conversation(self) -> tuple[tuple[str, str, str], ...]:
        """What was said, without ids and times."""
        return tuple((step.tool, step.arguments, step.content) for step in self.steps)


class Tools:
    """The agent's side of the gateway."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=120)

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Each tool as the model is told of it; the paths that can be read are those that are there."""
        offered = self._http.get("/v1/tools").raise_for_status().json()["tools"]
        tools = {tool["name"]: tool for tool in offered}
        there = sorted(str(path.relative_to(WORKSPACE)) for path in WORKSPACE.glob("shop/[a-z]*.py"))
        tools["read_file"]["parameters"]["properties"]["path"] = {"enum": there}
        return {name: _function(tool) for name, tool in tools.items()}

    def call(self, name: str, arguments: str, call_id: str) -> tuple[str, str]:
        """The tool's text, and how the gateway came by it."""
        body = {"arguments": json.loads(arguments), "call_id": call_id}
        answer = self._http.post(f"/v1/tools/{name}", json=body).raise_for_status().json()
        return answer["content"], answer["outcome"]


class Agent:
    """Does tasks, one step after the other."""

    def __init__(self, model_url: str, tools: Tools, token: str) -> None:
        self._model = OpenAI(base_url=f"{model_url}/v1", api_key=token, timeout=300, max_retries=0)
        self._tools = tools
        self._schemas = tools.schemas()

    def run(self, task: Task, progress: Callable[[str], None] = lambda step: None) -> TaskRun:
        """Do `task`; `progress` hears of every step."""
        steps = []
        for step in self.steps(task):
            steps.append(step)
            progress(f"{step.tool} ({step.outcome})")
        return TaskRun(task=task.name, steps=tuple(steps))

    def steps(self, task: Task) -> Iterator[Step]:
        """Do `task`, each step when it is asked for."""
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": task.request},
        ]
        for name in task.steps:
            yield self._step(messages, name)
        yield self._answer(messages)

    def _step(self, messages: list[ChatCompletionMessageParam], required: str) -> Step:
        asked = time.monotonic()
        name, arguments, call_id = self._generate_call(messages, required)
        generated = time.monotonic()
        content, outcome = self._tools.call(name, arguments, call_id)
        returned = time.monotonic()
        function = {"name": name, "arguments": arguments}
        messages.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": call_id, "type": "function", "function": function}],  # type: ignore[typeddict-item]
            }
        )
        messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        return Step(
            asked=asked,
            generated=generated,
            returned=returned,
            tool=name,
            arguments=arguments,
            content=content,
            outcome=outcome,
        )

    def _generate_call(self, messages: list[ChatCompletionMessageParam], required: str) -> tuple[str, str, str]:
        # In the Hermes format a named choice does not bind the grammar, so a step offers only what it requires.
        offered = [self._schemas[required]] if required else list(self._schemas.values())
        tools: list[ChatCompletionToolParam] = offered  # type: ignore[assignment]
        name = arguments = call_id = ""
        with self._model.chat.completions.create(
            model="default",
            messages=messages,
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=0,
            max_tokens=MAX_CALL_TOKENS,
            stream=True,
            stop=["</tool_call>"],
            # A model this small goes on with white space after its call; the marker itself stays in the text.
            extra_body={"no_stop_trim": True},
        ) as stream:
            for chunk in stream:
                for delta in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
                    if delta.function is None:
                        continue
                    call_id = delta.id or call_id
                    name = delta.function.name or name
                    arguments += delta.function.arguments or ""
        return name, arguments, call_id

    def _answer(self, messages: list[ChatCompletionMessageParam]) -> Step:
        asked = time.monotonic()
        answer = self._model.chat.completions.create(
            model="default", messages=messages, temperature=0, max_tokens=MAX_ANSWER_TOKENS
        )
        now = time.monotonic()
        return Step(asked=asked, generated=now, returned=now, content=answer.choices[0].message.content or "")


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    described = {"name": tool["name"], "description": tool["description"], "parameters": tool["parameters"]}
    return {"type": "function", "function": {**described, "strict": True}}
