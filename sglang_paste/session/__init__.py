"""Which conversation a request belongs to, and what the scheduler is told about it."""

from sglang_paste.session.identity import Sessions
from sglang_paste.session.message import Message, MessageCall
from sglang_paste.session.note import Note

__all__ = ["Message", "MessageCall", "Note", "Sessions"]
