"""Tool calls of sessions, each with the text before it, in the server's own tool-call format."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sglang_paste.mine.read import Reader
from sglang_paste.mine.records import Call, Result, Session, Turn

CONTEXT = 2048
QUICK_CONTEXT = 1024
MOST_TOKENS = 160
LEAST_TOKENS = 16
END = "<|im_end|>"
TEMPLATE = Path(__file__).parents[2] / "patches" / "cpu" / "chat_template.jinja"


class Case(NamedTuple):
    """An assistant turn with calls: the ids before it, its own, and which turn of which session it is."""

    source: str
    session: Session
    turn: int
    prompt: list[int]
    answer: list[int]


class Format:
    """The chat template and the tokenizer of the model."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        from jinja2 import Environment

        self.encode = encode
        self._template = Environment(autoescape=False).from_string(TEMPLATE.read_text())  # noqa: S701

    def calls(self, calls: Sequence[Call]) -> str:
        """Calls as the model writes them."""
        text = self._render([{"role": "assistant", "content": "", "tool_calls": [_wire(call) for call in calls]}])
        return text.rpartition("<|im_start|>assistant\n")[2].removesuffix("\n")

    def before(self, turns: Sequence[Turn]) -> str:
        """The prompt of the next assistant turn."""
        return self._render([message for turn in turns for message in _messages(turn)], add_generation_prompt=True)

    def _render(self, messages: list[dict[str, Any]], **options: bool) -> str:
        return self._template.render(messages=messages, **options)


def cases(sessions: Iterable[Session], form: Format, per_session: int, context: int = CONTEXT) -> Iterator[list[Case]]:
    """Of each session, its last `per_session` turns with calls of a moderate length. Their prompts begin at the same
    place and hold at most about `context` tokens, so that they are each other's prefixes, as in a real session."""
    for session in sessions:
        calling = [number for number, turn in enumerate(session.turns) if turn.tool_calls and number > 1]
        answers = {number: form.encode(form.calls(session.turns[number].tool_calls)) for number in calling[:40]}
        fit = [number for number, ids in answers.items() if LEAST_TOKENS <= len(ids) <= MOST_TOKENS]
        chosen = fit[-per_session:]
        if len(chosen) < per_session:
            continue
        whole = {number: form.encode(_prompt(session, number, form)) for number in chosen}
        start = max(0, len(whole[chosen[-1]]) - context)
        if start < len(whole[chosen[0]]) - 64:
            yield [Case(session.source, session, n, whole[n][start:], answers[n]) for n in chosen]


def recorded(folder: Path, per_source: int, draw: random.Random) -> tuple[list[Session], list[Session]]:
    """Sessions to be played, so many of each source, and others to learn from, none of which is of the same task."""
    from sglang_paste.mine.split import Split

    sessions = [session for session in Reader([folder]) if any(turn.tool_calls for turn in session.turns)]
    split = Split(sessions, 4)
    tested: dict[str, list[Session]] = {}
    for session in split.test(sessions, 0):
        tested.setdefault(session.source, []).append(session)
    for known in tested.values():
        draw.shuffle(known)
    played = [session for source in sorted(tested) for session in tested[source][:per_source]]
    learned = list(split.train(sessions, 0))
    draw.shuffle(learned)
    return played, learned


def made_up(count: int, draw: random.Random) -> list[Session]:
    """Sessions of our own writing: somebody repairs a module, reading, editing and testing it."""
    return [_made_up(str(number), draw) for number in range(count)]


def _made_up(name: str, draw: random.Random) -> Session:
    folder = draw.choice(("billing", "search", "catalogue", "mail"))
    module = draw.choice(("invoice", "index", "price", "queue", "address"))
    path, test = f"src/{folder}/{module}.py", f"tests/{folder}/test_{module}.py"
    limit = draw.randrange(10, 900)
    calls = (
        (Call("list_files", {"path": f"src/{folder}"}), f"{module}.py\n__init__.py\nhelpers.py"),
        (Call("read_file", {"path": path}), f"def total(rows):\n    return sum(rows[:{limit}])\n"),
        (Call("read_file", {"path": test}), f"def test_total():\n    assert total([1] * {limit + 1}) == {limit + 1}\n"),
        (Call("run_tests", {"target": test}), f"FAILED {test}::test_total"),
        (
            Call("edit_file", {"path": path, "old": f"return sum(rows[:{limit}])", "new": "return sum(rows)"}),
            f"edited {path}",
        ),
        (Call("run_tests", {"target": test}), f"1 passed {test}"),
        (Call("read_file", {"path": path}), "def total(rows):\n    return sum(rows)\n"),
    )
    turns = [Turn("system", "You repair Python code."), Turn("user", f"The total of {folder} is wrong, see {path}.")]
    for number, (call, content) in enumerate(calls):
        turns += [
            Turn("assistant", f"Step {number + 1}.", (call,)),
            Turn("tool", "", (), (Result(call.name, content),)),
        ]
    return Session("made up", name, name, tuple(turns))


def _prompt(session: Session, number: int, form: Format) -> str:
    content = session.turns[number].content
    return form.before(session.turns[:number]) + (content + "\n" if content else "")


def _messages(turn: Turn) -> Iterator[dict[str, Any]]:
    if turn.role == "tool":
        yield from ({"role": "tool", "content": result.content} for result in turn.tool_results)
    else:
        calls = [_wire(call) for call in turn.tool_calls]
        yield {"role": turn.role, "content": turn.content, "tool_calls": calls}


def _wire(call: Call) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": call.arguments}}
