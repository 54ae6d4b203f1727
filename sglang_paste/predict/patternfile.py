"""The file mined patterns are kept in: recognised by its first bytes, of one version, checked as a whole."""

import hashlib
import os
import struct
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sglang_paste.errors import ConfigError

MAGIC = b"sglang-paste patterns\n"
VERSION = 5
MAX_BYTES = 256 * 1024 * 1024
_HEADER = struct.Struct("<IQ32s")  # version, bytes of the body, SHA-256 over all but itself

T = TypeVar("T")


def save(path: Path, patterns: Any) -> int:
    """Write a msgspec Struct there, all of it or nothing, and return the bytes written.

    Equal patterns give equal bytes. The file has mode 0600: patterns of one tenant may hold what its users wrote.
    Raises ConfigError.
    """
    body = msgspec.msgpack.Encoder(order="deterministic").encode(patterns)
    if len(body) > MAX_BYTES:
        raise ConfigError(f"the patterns take {len(body)} bytes, the limit is {MAX_BYTES}; mine fewer sessions")
    header = MAGIC + _HEADER.pack(VERSION, len(body), _digest(VERSION, body))
    try:
        _replace(path, header, body)
    except OSError as error:
        raise ConfigError(f"the patterns cannot be written to {path} ({error}); name a place that can") from error
    return len(header) + len(body)


def load(path: Path, kind: type[T]) -> T:
    """What `save` wrote. Raises ConfigError for a file that is missing, foreign, of another version, or damaged."""
    try:
        with path.open("rb") as file:
            magic, fixed = file.read(len(MAGIC)), file.read(_HEADER.size)
            if magic != MAGIC:
                raise ConfigError(f"{path} holds no patterns of ours; name a file that `sglang-paste mine` wrote")
            if len(fixed) < _HEADER.size:
                raise _damaged(path, "its header is cut off")
            version, length, digest = _HEADER.unpack(fixed)
            if version != VERSION:
                raise ConfigError(f"{path} has version {version}, not {VERSION}; mine the sessions again")
            if length > MAX_BYTES:
                raise _damaged(path, f"it claims {length} bytes, the limit is {MAX_BYTES}")
            body = file.read(length + 1)
    except OSError as error:
        raise ConfigError(f"the patterns {path} cannot be read ({error}); name a file that can") from error
    if len(body) != length:
        raise _damaged(path, f"it has {'more' if len(body) > length else 'fewer'} bytes than its header says")
    if _digest(version, body) != digest:
        raise _damaged(path, "its checksum is another one")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _digest(version: int, body: bytes) -> bytes:
    return hashlib.sha256(MAGIC + struct.pack("<IQ", version, len(body)) + body).digest()


def _replace(path: Path, *parts: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _damaged(path: Path, found: str) -> ConfigError:
    return ConfigError(f"the patterns {path} are damaged ({found}); mine the sessions again")
