"""Frames: what goes in comes out, and nothing else gets in."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.errors import WireError
from sglang_paste.events import CallReady, Message, Ping, SessionEnded, ToolReturned, TurnEnded, TurnStarted
from sglang_paste.wire.frames import MAX_FRAME_BYTES, decode, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
common = {
    "tenant": texts.map(TenantId),
    "session": texts.map(SessionId),
    "request": texts,
    "position": st.integers(0, 2**31),
    "time": st.floats(allow_nan=False, allow_infinity=False),
}
messages = st.one_of(
    st.builds(Ping, sender=texts, time=common["time"]),
    st.builds(SessionEnded, **common),
    st.builds(TurnStarted, prompt_tokens=st.integers(0, 2**31), tools=st.lists(texts).map(tuple), **common),
    st.builds(CallReady, index=st.integers(0, 99), tool=texts, arguments=texts, **common),
    st.builds(TurnEnded, reason=st.sampled_from(["stop", "abort"]), calls=st.integers(0, 9), **common),
)


def large(size: int) -> ToolReturned:
    return ToolReturned(
        tenant=TenantId("t"),
        session=SessionId("s"),
        request="r",
        position=0,
        time=0.0,
        tool="x",
        call_id="c",
        arguments="{}",
        content="a" * size,
    )


@given(st.lists(messages, max_size=20))
def test_what_goes_in_comes_out(sent: list[Message]) -> None:
    assert [message for frame in encode(sent) for message in decode(frame.data)] == sent


def test_messages_too_large_together_travel_apart() -> None:
    sent = [large(MAX_FRAME_BYTES // 2), large(MAX_FRAME_BYTES // 3), large(MAX_FRAME_BYTES // 4)]
    assert [decode(frame.data) for frame in encode(sent)] == [[message] for message in sent]


def test_a_message_too_large_alone_has_no_frame() -> None:
    assert [decode(frame.data) for frame in encode([large(MAX_FRAME_BYTES), large(1)])] == [[large(1)]]


def ready(arguments: str) -> CallReady:
    session = SessionId("s")
    return CallReady(
        tenant=TenantId("t"), session=session, request="r", position=0, time=0.0, index=0, tool="x", arguments=arguments
    )


def test_half_a_character_costs_its_own_message_alone() -> None:
    frames = encode([ready('"a"'), ready('"\ud800"'), ready('"b"')])
    assert [frame.messages for frame in frames] == [1, 1]
    assert [decode(frame.data) for frame in frames] == [[ready('"a"')], [ready('"b"')]]
    assert encode([ready('"\ud800"')]) == []


def survives(decoder: Callable[[bytes], list[Message]], frame: bytes) -> None:
    """Whatever the bytes, a decoder gives messages that encode again, or raises WireError."""
    try:
        found = decoder(frame)
    except WireError:
        return
    assert [message for again in encode(found) for message in decoder(again.data)] == found


@given(st.binary(max_size=200))
def test_random_bytes_kill_nothing(frame: bytes) -> None:
    survives(decode, frame)


@given(st.lists(messages, min_size=1, max_size=4), st.data())
def test_damaged_frames_kill_nothing(sent: list[Message], data: st.DataObject) -> None:
    [(frame, _)] = encode(sent)
    cut = data.draw(st.integers(0, len(frame)))
    flipped = bytearray(frame)
    flipped[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    survives(decode, frame[:cut])
    survives(decode, frame + data.draw(st.binary(min_size=1, max_size=8)))
    survives(decode, bytes(flipped))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x91" * 100_000 + b"\x90",
        b"\x81\xa4type" * 10_000,
        b"x" * (MAX_FRAME_BYTES + 1),
        msgspec.msgpack.encode({"type": "NoSuchMessage"}),
        msgspec.msgpack.encode({"type": "Ping", "sender": "a", "time": 0.0, "more": 1}),
        msgspec.msgpack.encode({"type": "Ping", "sender": "a"}),
        msgspec.msgpack.encode({"type": "Ping", "sender": 1, "time": 0.0}),
        msgspec.msgpack.encode({"type": "Ping", "sender": "a", "time": float("nan")}),
        msgspec.msgpack.encode([{"type": "Ping", "sender": "a", "time": 0.0}, 1]),
        msgspec.msgpack.encode("Ping"),
        b"\x83\xa4type\xa4Ping\xa6sender\xa1\xff\xa4time\xcb" + bytes(8),
    ],
)
def test_what_is_not_ours_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        decode(frame)


def test_the_property_catches_a_decoder_that_lets_errors_through() -> None:
    def broken(frame: bytes) -> list[Message]:
        return [msgspec.msgpack.decode(frame, type=Ping)]

    @settings(report_multiple_bugs=False, database=None)
    @given(st.binary(max_size=200))
    def survival(frame: bytes) -> None:
        survives(broken, frame)

    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        survival()
