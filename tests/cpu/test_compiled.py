"""Compiling the kernels: once, for this machine, and never a reason to fail a start."""

import logging
import platform
import stat
from pathlib import Path

import pytest

from sglang_paste.patches.cpu import compiled
from sglang_paste.patches.cpu.compiled import Build


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sglang-paste"


@pytest.fixture
def small(tmp_path: Path) -> Build:
    source = tmp_path / "small.c"
    source.write_text("int answer(void) { return 42; }\n")
    return Build(source)


def test_a_library_is_compiled_once(small: Build, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compiled.load_library(small)
    assert library is not None
    assert library.answer() == 42

    def refuse(*_command: str) -> None:
        raise AssertionError("compiled twice")

    monkeypatch.setattr(compiled, "_run", refuse)
    assert compiled.load_library(small) is not None
    assert len(list(own_cache.iterdir())) == 1


def test_a_source_that_does_not_compile_is_logged(
    small: Build, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small.source.write_text("this is not C\n")
    with caplog.at_level(logging.WARNING):
        assert compiled.load_library(small) is None
    assert "could not be compiled" in caplog.text
    assert not list(own_cache.iterdir())


def test_without_a_compiler_kernels_stay_torchs(
    small: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with caplog.at_level(logging.WARNING):
        assert compiled.load_library(small) is None
    assert "No C compiler" in caplog.text


def test_a_folder_others_can_write_is_not_loaded_from(
    small: Build, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.mkdir()
    own_cache.chmod(own_cache.stat().st_mode | stat.S_IWOTH)
    with caplog.at_level(logging.WARNING):
        assert compiled.load_library(small) is None
    assert "can be written by others" in caplog.text


def test_cc_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compiled.find_compiler() is None


def test_each_build_has_its_own_library(small: Build, own_cache: Path) -> None:
    assert compiled.load_library(small) is not None
    assert compiled.load_library(Build(small.source, ("-DOTHER",))) is not None
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels are for x86-64")
@pytest.mark.parametrize("capability", compiled.BUILDS)
def test_the_kernels_of_every_processor_compile_on_any(capability: str, own_cache: Path) -> None:
    build = compiled.BUILDS[capability]
    wide = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq") if capability == "AVX512" else ()
    assert compiled.load_library(Build(build.source, (*build.flags, *wide, "-Wall", "-Wextra", "-Werror"))) is not None
