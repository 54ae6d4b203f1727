"""Our own form of recorded sessions: JSON lines, one session each.

    {"source": "shop", "session_id": "s1", "task_id": "t1", "tenant": "", "tools": ["find"], "turns": [
      {"role": "user", "content": "where is order 7?"},
      {"role": "assistant", "content": "", "t_start": 1.0, "t_end": 2.5,
       "tool_calls": [{"id": "c1", "name": "find", "arguments": {"order": 7}}]},
      {"role": "tool", "t_start": 2.5, "t_end": 2.9,
       "tool_results": [{"id": "c1", "name": "find", "content": "{}", "duration_s": 0.4, "is_error": false}]}]}

Times are seconds since 1970: of the model in an assistant's turn, of the tools in a tool's turn. Everything may be
absent but `turns`, `role`, the names, `arguments` and a result's `content`; fields not named here are passed over.
Sessions of one task have one `task_id`; without it, those whose first user turns say the same are of one task.
"""

import msgspec

from sglang_paste.mine.read.text import digest, task_or_text
from sglang_paste.mine.records import Session, Turn


class _Line(msgspec.Struct):
    turns: tuple[Turn, ...]
    source: str = "sessions"
    session_id: str | int | None = None
    task_id: str | int | None = None
    tenant: str = ""
    tools: tuple[str, ...] | None = None


_decoder = msgspec.json.Decoder(_Line)


def read(data: bytes) -> list[Session]:
    """The session of one line. Raises msgspec.MsgspecError, UnicodeDecodeError or RecursionError."""
    line = _decoder.decode(data)
    session_id = digest(data) if line.session_id is None else str(line.session_id)
    task_id = task_or_text(line.task_id, line.turns, session_id)
    return [Session(line.source, session_id, task_id, line.turns, line.tenant, line.tools)]
