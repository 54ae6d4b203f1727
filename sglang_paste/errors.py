"""One exception family. A message is one sentence: what is wrong, what was found, what to do."""


class PasteError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(PasteError):
    """A flag, tools.toml or an environment that cannot be used; start is refused."""


class HookError(PasteError):
    """The installed SGLang is not the one the hooks were written against."""


class CallError(PasteError):
    """A tool call that cannot be run as asked; the message is shown to the caller."""


class UnknownTool(CallError):
    """The named tool is not configured."""


class BadArguments(CallError):
    """The arguments are not JSON, not an object, or fail the tool's schema."""


class OutcomeUnknown(CallError):
    """The call id was started before a crash and is never run a second time."""


class Unavailable(CallError):
    """The call cannot be taken now; the same call may succeed later."""


class WireError(PasteError):
    """A frame that is malformed, oversized or of another version."""


class LedgerError(PasteError):
    """An entry or a write of the ledger was used out of its order; a mistake of the caller."""


class JournalError(PasteError):
    """The journal cannot be read or written, so no call id can be promised to run at most once."""
