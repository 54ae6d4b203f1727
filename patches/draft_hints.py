"""The hints of this scheduler's requests: whoever knows a text puts it here, and the draft worker reads it."""

from sglang_paste.draft.hints import Hints

# What an answer's `meta_info` says of its drafts: accepted tokens by source.
ACCEPTED = "paste_accepted_drafts"

_hints = Hints()


def hints() -> Hints:
    """The one store of this process; requests are named by their `rid`."""
    return _hints
