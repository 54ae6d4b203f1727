"""Our own form of recorded sessions: JSON lines, one session each.

    {"source": "shop", "session_id": "s1", "task_id": "t1", "tenant": "", "turns": [
      {"role": "user", "content": "where is order 7?"},
      {"role": "assistant", "content": "", "t_start": 1.0, "t_end": 2.5,
       "tool_calls": [{"id": "c1", "name": "find", "arguments": {"order": 7}}]},
      {"role": "tool", "t_start": 2.5, "t_end": 2.9,
       "tool_results": [{"id": "c1", "name": "find", "content": "{}", "duration_s": 0.4, "is_error": false}]}]}

Times are seconds since 1970: of the model in an assistant's turn, of the tools in a tool's turn. `tenant`, ids, times,
`truncated` and `is_error` may be absent, and fields not named here are passed over.
"""

import msgspec

from sglang_paste.mine.records import Session

_decoder = msgspec.json.Decoder(Session)


def read(data: bytes) -> list[Session]:
    """The session of one line. Raises msgspec.MsgspecError, UnicodeDecodeError or RecursionError."""
    return [_decoder.decode(data)]
