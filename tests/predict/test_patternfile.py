"""The file of mined patterns: all of it or nothing, and only our own."""

import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.errors import ConfigError
from sglang_paste.predict import patternfile
from sglang_paste.predict.patternfile import MAGIC, load, save


class Thing(msgspec.Struct):
    names: dict[str, int]
    weights: bytes = b""


THING = Thing({"b": 1, "a": 2}, b"\0\xff")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "patterns"


def test_what_was_saved_is_loaded_and_equal_things_give_equal_bytes(path: Path) -> None:
    size = save(path, THING)
    data = path.read_bytes()
    assert (load(path, Thing), len(data)) == (THING, size)
    save(path, Thing({"a": 2, "b": 1}, b"\0\xff"))
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["patterns"]


@given(st.data())
def test_one_changed_byte_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "patterns"
    save(path, THING)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    path.write_bytes(good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :])
    with pytest.raises(ConfigError):
        load(path, Thing)


@pytest.mark.parametrize("cut", [0, 5, len(MAGIC), len(MAGIC) + 10, -1])
def test_a_cut_file_is_refused(path: Path, cut: int) -> None:
    save(path, THING)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ConfigError, match=r"damaged|no patterns of ours"):
        load(path, Thing)


def test_a_refusal_says_what_is_wrong(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, Thing)
    path.write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(ConfigError, match="holds no patterns of ours; name a file that `sglang-paste mine` wrote"):
        load(path, Thing)
    save(path, THING)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ConfigError, match="it has more bytes than its header says"):
        load(path, Thing)
    save(path, [1])
    with pytest.raises(ConfigError, match=r"damaged .*Expected `object`"):
        load(path, Thing)
    with monkeypatch.context() as patched:
        patched.setattr(patternfile, "VERSION", 9)
        save(path, THING)
    with pytest.raises(ConfigError, match="has version 9, not 5; mine the sessions again"):
        load(path, Thing)


def test_its_size_is_bounded_both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path, THING)
    monkeypatch.setattr(patternfile, "MAX_BYTES", 4)
    with pytest.raises(ConfigError, match=r"claims .* bytes, the limit is 4"):
        load(path, Thing)
    with pytest.raises(ConfigError, match="the limit is 4; mine fewer sessions"):
        save(path, THING)


def test_a_failed_write_leaves_the_file_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path, THING)

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"cannot be written to .*no space left"):
        save(path, Thing({}))
    assert load(path, Thing) == THING
    assert os.listdir(path.parent) == ["patterns"]
    with pytest.raises(ConfigError, match="cannot be written"):
        save(path.parent / "nowhere" / "patterns", THING)
