"""The warm process that a python tool runs in: `python -m sglang_paste.execute.worker`, served over its pipes.

It imports next to nothing of its own, so that starting one is cheap.
"""

import ctypes
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, BinaryIO, get_args, get_origin, get_type_hints

import msgspec

from sglang_paste.execute import frames
from sglang_paste.execute.frames import Call, Failed, Load, Loaded, Returned

PR_SET_PDEATHSIG = 1


class Tool:
    """A function, and how JSON becomes its arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._record: type[msgspec.Struct] | None = None
        self.description = inspect.getdoc(function) or ""
        self.schema: dict[str, Any] | None = None
        self.reason = ""
        try:
            self._record = _record_of(function)
            self.schema = _schema_of(self._record)
        except (TypeError, ValueError, NameError) as error:
            self.reason = str(error)

    def call(self, arguments: str, limit: int) -> Returned:
        """Run it; whatever it raises becomes an error that the caller reads."""
        try:
            result = self._function(**self._convert(json.loads(arguments)))
            if inspect.isawaitable(result):
                result = _complete(result)
            return _returned(result, limit)
        except (Exception, SystemExit) as error:
            content, truncated = _cut(f"{type(error).__name__}: {error}".removesuffix(": "), limit)
            trace = traceback.format_exc()[-frames.TRACE_LIMIT :]
            return Returned(content=content, is_error=True, truncated=truncated, trace=_printable(trace))

    def _convert(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._record is None:
            return arguments
        record = msgspec.convert(arguments, self._record)
        return {name: getattr(record, name) for name in arguments}


def main() -> None:
    """Serve frames until the owner is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    source, sink = _take_over_pipes()
    tool: Tool | None = None
    while header := source.read(frames.HEADER.size):
        frame = frames.decode(source.read(frames.body_length(header, 1 << 31)))
        answer: frames.Frame
        if isinstance(frame, Load):
            answer, tool = _load(frame)
        elif isinstance(frame, Call) and tool is not None:
            answer = tool.call(frame.arguments, frame.limit)
        else:
            raise SystemExit("the owner sent a frame that a worker does not take")
        sink.write(frames.encode(answer))
        sink.flush()
        sys.stdout.flush()


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the owner's pipes away from the tool: it reads nothing, and what it prints goes to stderr."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _load(frame: Load) -> tuple[Loaded | Failed, Tool | None]:
    sys.path.insert(0, frame.folder)
    module, _, path = frame.function.partition(":")
    try:
        __import__(module)
        value: Any = sys.modules[module]
        for name in path.split("."):
            value = getattr(value, name)
    except (Exception, SystemExit) as error:
        return Failed(reason=_printable(f"{type(error).__name__}: {error}")), None
    if not callable(value):
        return Failed(reason=f"{frame.function} is a {type(value).__name__}, not a function"), None
    tool = Tool(value)
    parameters = json.dumps(tool.schema) if tool.schema is not None else None
    return Loaded(description=_printable(tool.description), parameters=parameters, reason=tool.reason), tool


def _record_of(function: Callable[..., Any]) -> type[msgspec.Struct]:
    hints = get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"its parameter {name} is {parameter.kind.description}, which no schema can say")
        hint = _described(hints.get(name, Any))
        if parameter.default is parameter.empty:
            fields.append((name, hint))
        else:
            fields.append((name, hint, _default(parameter.default)))
    return msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)


def _described(hint: Any) -> Any:
    """`Annotated[int, "how many"]` says a description, as it does in other frameworks."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, *notes = get_args(hint)
    return Annotated[(kind, *(msgspec.Meta(description=note) if isinstance(note, str) else note for note in notes))]


def _default(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return msgspec.field(default_factory=lambda: value)


def _schema_of(record: type[msgspec.Struct]) -> dict[str, Any]:
    schema = msgspec.json.schema(record)
    definitions = schema.get("$defs", {})
    root: dict[str, Any] = definitions.pop("Arguments")
    root.pop("title", None)
    return {**root, "$defs": definitions} if definitions else root


def _complete(awaitable: Any) -> Any:
    import asyncio

    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


def _returned(result: Any, limit: int) -> Returned:
    if isinstance(result, str):
        content, truncated = _cut(result, limit)
        return Returned(content=content, truncated=truncated)
    text = msgspec.json.encode(result, enc_hook=_model).decode()
    content, truncated = _cut(text, limit)
    return Returned(content=content, truncated=truncated, structured=None if truncated else text)


def _model(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"it returned a {type(value).__name__}, which is no JSON; return text, numbers, lists or dicts")


def _cut(text: str, limit: int) -> tuple[str, bool]:
    data = text[: limit + 1].encode(errors="replace").replace(b"\0", "\N{REPLACEMENT CHARACTER}".encode())
    if len(data) <= limit and len(text) <= limit:
        return data.decode(), False
    return data[:limit].decode(errors="ignore"), True


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


if __name__ == "__main__":
    main()
