"""The hooks of the tokenizer manager, through which every request and every answer goes."""

from typing import Any

import msgspec

from sglang_paste.calls import SessionId
from sglang_paste.patches.api_turn import SESSIONS, tenant_of
from sglang_paste.patches.draft_hints import ACCEPTED
from sglang_paste.session import Note
from sglang_paste.session.note import KEY, OwnText, write

ASKED = "paste_tools"


def tokenized(result: Any, manager: Any, obj: Any, *args: Any, **kwargs: Any) -> None:
    """After `_create_tokenized_object`: a note of ours goes to the scheduler as plain text, any other goes nowhere.

    A client of /generate asks for boundaries with `sampling_params.custom_params.paste_tools`, the JSON text of its
    OpenAI tools. Raises ValueError, which the client gets as 400, where that is no such text.
    """
    custom = getattr(result.sampling_params, "custom_params", None)
    if not custom or (KEY not in custom and ASKED not in custom):
        return
    note, asked = custom.get(KEY), custom.get(ASKED)
    custom = {name: value for name, value in custom.items() if name not in (KEY, ASKED)}
    if type(note) is OwnText:
        custom[KEY] = str(note)
    elif asked is not None and manager.server_args.tool_call_parser:
        custom[KEY] = str(write(_note(obj, asked)))
    result.sampling_params.custom_params = custom or None


def counted(_result: None, manager: Any, meta_info: dict[str, Any], *args: Any) -> None:
    """After `update_request_meta_info`: what SGLang collects in a list as it comes is one object of an answer's end."""
    if ACCEPTED in meta_info:
        meta_info[ACCEPTED] = meta_info[ACCEPTED][-1] if meta_info[ACCEPTED] else {}


def _note(obj: Any, asked: Any) -> Note:
    from sglang.srt.entrypoints.openai.protocol import Tool

    try:
        tools = [Tool.model_validate(tool) for tool in msgspec.json.decode(asked, type=list[dict[str, Any]])]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"custom_params.{ASKED} is no JSON array of tools ({error}); send the text of an OpenAI `tools` array"
        ) from error
    tenant = tenant_of(obj)
    named = obj.session_id if isinstance(obj.session_id, str) else None
    session: SessionId = SESSIONS.resolve(tenant, (), named)
    data = msgspec.json.encode([tool.model_dump() for tool in tools])
    return Note(tenant=tenant, session=session, tools=msgspec.Raw(data))
