"""Recorded sessions made up for tests, and how each format would have them."""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from sglang_paste.mine.records import Call, Result, Session, Turn

names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
)
arguments = st.dictionaries(names, values, max_size=3)


@st.composite
def exchanges(draw: st.DrawFn, number: int) -> list[Turn]:
    """An assistant's turn with calls, and their results in any order."""
    made = draw(st.lists(st.tuples(names, arguments), min_size=1, max_size=3))
    calls = [Call(name, given, f"call_{number}_{index}") for index, (name, given) in enumerate(made)]
    answered = draw(st.permutations(calls))
    results = tuple(Result(call.name, draw(texts), call.id) for call in answered)
    return [Turn("assistant", draw(texts), tuple(calls)), Turn("tool", tool_results=results)]


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """A session that every format can hold: calls with ids, each answered, no times."""
    turns = [Turn("system", draw(texts))] if draw(st.booleans()) else []
    turns.append(Turn("user", draw(texts)))
    for number in range(draw(st.integers(0, 3))):
        turns += draw(exchanges(number))
    turns.append(Turn("assistant", draw(texts)))
    tools = draw(st.none() | st.lists(names, max_size=3).map(tuple))
    return Session(draw(names), draw(names), draw(names), tuple(turns), tools=tools)


def as_own(session: Session) -> dict[str, Any]:
    """Our own form."""
    found: dict[str, Any] = msgspec.to_builtins(session)
    return found


def as_openai(session: Session) -> dict[str, Any]:
    """A conversation of the OpenAI chat API."""
    messages: list[dict[str, Any]] = []
    for turn in session.turns:
        if turn.role == "tool":
            messages += [{"role": "tool", "tool_call_id": r.id, "content": r.content} for r in turn.tool_results]
            continue
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
                for c in turn.tool_calls
            ]
        messages.append(message)
    ids = {"id": session.session_id, "task_id": session.task_id, "source": session.source}
    return {**ids, "messages": messages, "tools": as_tools(session)}


def as_tools(session: Session) -> list[dict[str, Any]] | None:
    """What was offered, in the form of the OpenAI chat API."""
    if session.tools is None:
        return None
    return [{"type": "function", "function": {"name": name, "parameters": {}}} for name in session.tools]


def as_atif(session: Session) -> dict[str, Any]:
    """An ATIF trajectory."""
    steps: list[dict[str, Any]] = []
    for turn in session.turns:
        if turn.role == "tool":
            results = [{"source_call_id": r.id, "content": r.content} for r in turn.tool_results]
            steps[-1]["observation"] = {"results": results}
            continue
        source = "agent" if turn.role == "assistant" else turn.role
        step: dict[str, Any] = {"step_id": len(steps) + 1, "source": source, "message": turn.content}
        if turn.tool_calls:
            step["tool_calls"] = [
                {"tool_call_id": c.id, "function_name": c.name, "arguments": c.arguments} for c in turn.tool_calls
            ]
        steps.append(step)
    return {
        "schema_version": "ATIF-v1.7",
        "session_id": session.session_id,
        "agent": {"name": session.source, "version": "1", "tool_definitions": as_tools(session)},
        "steps": steps,
        "extra": {"task_id": session.task_id},
    }


def lookups(source: str, number: int, *, task: str | None = None, seconds: float = 1.0) -> Session:
    """A session whose calls can be foreseen: an order is looked up, then the customer that its result names."""
    order, customer = f"order-{number:04d}", f"customer-{number * 7919 % 1000:03d}"
    turns = (
        Turn("user", f"please tell me all about {order} in words of your own"),
        Turn("assistant", "I look it up.", (Call("find_order", {"order": order}),)),
        Turn("tool", tool_results=(_found("find_order", {"order": order, "customer": customer}, seconds),)),
        Turn("assistant", "Now the customer.", (Call("find_customer", {"customer": customer}),)),
        Turn("tool", tool_results=(_found("find_customer", {"customer": customer, "name": "A. B."}, 3 * seconds),)),
        Turn("assistant", "That is all."),
    )
    return Session(source, f"{source}-{number}", task or f"task-{number}", turns)


def _found(tool: str, value: dict[str, Any], seconds: float) -> Result:
    return Result(tool, json.dumps(value), duration_s=seconds)
