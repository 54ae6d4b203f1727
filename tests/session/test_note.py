"""The note survives its way, and nothing else is taken for one."""

import msgspec
import pytest

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.errors import WireError
from sglang_paste.session import Note
from sglang_paste.session.note import OwnText, read, write

NOTE = Note(
    tenant=DEFAULT_TENANT,
    session=SessionId("s"),
    tools=msgspec.Raw(b'[{"type":"function","function":{"name":"f\xc3\xbcr"}}]'),
    choice={"type": "function", "function": {"name": "für"}},
    thinking=True,
)


def test_round_trip() -> None:
    text = write(NOTE)
    assert type(text) is OwnText
    assert type(str(text)) is str
    again = read(str(text))
    assert bytes(again.tools) == bytes(NOTE.tools)
    assert (again.tenant, again.session, again.choice, again.thinking) == ("default", "s", NOTE.choice, True)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tenant":"t"}', "\udc80", write(NOTE)[:-1]])
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        read(text)


def test_too_large_a_note_is_refused() -> None:
    tools = msgspec.Raw(b'["' + b"x" * (5 * 1024 * 1024) + b'"]')
    with pytest.raises(WireError, match="the limit is"):
        write(msgspec.structs.replace(NOTE, tools=tools))
