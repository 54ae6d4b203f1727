"""The JSON documents of a file, one at a time: a line each, or the whole file where it is one document."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import msgspec

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
GZIP = b"\x1f\x8b"
SQLITE = b"SQLite format 3\0"


class Document(msgspec.Struct, frozen=True):
    """A document and the line it begins on, from 1. Where it cannot be had, `fault` says why and `data` is empty."""

    line: int
    data: bytes = b""
    fault: str = ""


def first_bytes(path: Path) -> bytes:
    """Enough of the file to recognise what it is. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(SQLITE))


def documents(raw: IO[bytes], limit: int = MAX_DOCUMENT_BYTES) -> Iterator[Document]:
    """The documents in an open file, plain or gzip, in bounded memory; blank lines are passed over.

    What cannot be read any further (a cut or damaged gzip) is the last document, with a fault.
    """
    zipped = raw.read(len(GZIP)) == GZIP
    raw.seek(0)
    file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if zipped else raw
    line = 0
    try:
        for line, document in enumerate(_documents(file, limit), 1):
            if document is not None:
                yield msgspec.structs.replace(document, line=line)
    except (OSError, EOFError, zlib.error) as error:
        yield Document(line + 1, fault=f"the file cannot be read any further ({error})")


def _documents(file: IO[bytes], limit: int) -> Iterator[Document | None]:
    """One for each line; None for a blank one."""
    head = file.readline(limit + 1)
    if head.strip() in (b"{", b"["):
        whole = head + file.read(limit + 1 - len(head))
        if len(whole) <= limit and _is_document(whole):
            yield Document(1, whole)
            return
        file.seek(0)
        head = file.readline(limit + 1)
    while head:
        yield _line(file, head, limit)
        head = file.readline(limit + 1)


def _is_document(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _line(file: IO[bytes], head: bytes, limit: int) -> Document | None:
    if len(head) > limit:
        while not head.endswith(b"\n") and (head := file.readline(limit)):
            pass
        return Document(0, fault=f"the line is longer than {limit} bytes")
    return Document(0, head) if head.strip() else None
