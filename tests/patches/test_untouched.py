"""With the flag off, SGLang is what it was: the objects, and the answers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_server import environment, tiny_server

pytestmark = pytest.mark.host

COMPARE = """
import inspect, pkgutil, sys
sys.argv = ["sglang", "--model-path", "m", "--tool-call-parser", "hermes"]
from sglang_paste.patches import arm
from sglang_paste.patches.table import HOOKS

def objects():
    for hook in HOOKS:
        path, _, name = hook.target.rpartition(".")
        yield inspect.getattr_static(pkgutil.resolve_name(path), name)

before = list(objects())
from sglang.srt.plugins import load_plugins
from sglang.srt.plugins.hook_registry import HookRegistry
load_plugins()
for role in ("scheduler", "detokenizer", "controller", "main"):
    arm.current_role = lambda: role
    arm.enter()
HookRegistry.apply_hooks()
assert all(old is new for old, new in zip(before, objects(), strict=True))
assert not HookRegistry._hooks and not HookRegistry._patched
print("untouched", len(before))
"""


@pytest.mark.timeout(300)
def test_no_object_is_replaced_with_the_flag_off() -> None:
    command = [sys.executable, "-W", "ignore", "-c", COMPARE]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(SGLANG_PLUGINS="paste"), timeout=280)
    assert re.search(r"^untouched \d+$", ran.stdout, re.MULTILINE), ran.stderr[-2000:]


MESSAGES = [{"role": "user", "content": "Größe? 日本語 🙂 and a long tail " * 8}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a file",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"file": {"enum": ["a.txt", "b.txt"]}, "deep": {"type": "boolean"}},
            "required": ["file", "deep"],
            "additionalProperties": False,
        },
    },
}
CHAT = {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 24, "seed": 7}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 64}),
    ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 64, "stream": True}),
    ("/v1/completions", {"model": "m", "prompt": "One two", "temperature": 0, "max_tokens": 16, "logprobs": 2}),
    ("/v1/messages", {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 16}),
    ("/generate", {"text": "One two", "sampling_params": {"temperature": 0, "max_new_tokens": 16}}),
    ("/v1/chat/completions", {"model": "m", "messages": "no list"}),
    ("/v1/tools/look", {}),
]

VOLATILE_ID = re.compile(rb'"id":\s*"[^"]*"')
VOLATILE = [
    VOLATILE_ID.pattern,
    rb'"created(?:_at)?":\s*[\d.]+',
    rb'"(?:e2e_latency|queue_time|[a-z_]*(?:_ts|_time|_latency))":\s*[\d.eE+-]+',
    rb'"response_sent_to_client_ts":\s*[\d.]+',
]


def answers(url: str) -> list[tuple[int, list[tuple[str, str]], bytes]]:
    """Every answer to the byte, less identifiers and times."""
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        return [_plain(client.post(path, json=body)) for path, body in REQUESTS]


def _plain(response: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    body = _joined(response.content) if "event-stream" in response.headers["content-type"] else response.content
    for pattern in VOLATILE:
        body = re.sub(pattern, b'"*"', body)
    headers = [
        (name, value) for name, value in response.headers.multi_items() if name not in ("date", "content-length")
    ]
    return response.status_code, headers, body


def _joined(stream: bytes) -> bytes:
    """The stream with its text in one piece: how many tokens go into a chunk is a matter of time, the rest is not."""
    text: list[str] = []
    arguments: list[str] = []
    frames: list[bytes] = []
    for line in stream.splitlines():
        if line.startswith(b"data: {"):
            chunk = json.loads(line[6:])
            for choice in chunk["choices"]:
                text.append(choice["delta"].pop("content", None) or "")
                calls = choice["delta"].get("tool_calls") or []
                arguments += [call["function"].pop("arguments", None) or "" for call in calls]
            line = b"data: " + json.dumps(chunk, separators=(",", ":")).encode()
        if line and (not frames or VOLATILE_ID.sub(b"", line) != VOLATILE_ID.sub(b"", frames[-1])):
            frames.append(line)
    return b"\n".join([*frames, "".join(text).encode(), "".join(arguments).encode()])


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_client_cannot_tell_whether_the_plugin_is_there_or_its_flag_is_on(tmp_path: Path) -> None:
    told = {}
    for name, allowed, arguments in (
        ("without", "nobody", []),
        ("off", "paste", []),
        ("on", "paste", ["--enable-tool-speculation", "--tool-state-dir", str(tmp_path / "state")]),
    ):
        with tiny_server(tmp_path / f"{name}.log", *arguments, SGLANG_PLUGINS=allowed) as server:
            told[name] = answers(server.url)
    assert told["off"] == told["without"]
    assert told["on"] == told["without"]
    assert [status for status, _, _ in told["without"]] == [200] * 7 + [400, 404]
