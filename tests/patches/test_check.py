"""The hook table against a source tree."""

import json
from pathlib import Path

import pytest

from sglang_paste.errors import HookError
from sglang_paste.patches import check
from sglang_paste.patches.table import HOOKS, Hook, hooks_of

SOURCE = """
import functools

class Base: ...

class Engine(Base, metaclass=type):
    def step(self, size: int = 1, *rest: int, wait: float = 0.5, **more: object) -> None: ...
    async def ask(self, question, /, timeout=None): ...
    @classmethod
    def of(cls, args: "Args") -> "Engine": ...
    @staticmethod
    def parse(text): ...
    @property
    def ready(self) -> bool: ...
    @functools.cache
    def cached(self, key=default): ...

if True:
    def chosen(a): ...
else:
    def chosen(b): ...

try:
    import fast
    def speed(): ...
except ImportError:
    fast = None

def twice(first): ...
def twice(second): ...
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "pretend_host"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\ndef at_the_top(x): ...\n")
    (package / "inner" / "__init__.py").write_text("def inside(y): ...\n")
    (package / "inner" / "engine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return package


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("inner.engine.Engine", "class (Base)"),
        ("inner.engine.Base", "class ()"),
        ("inner.engine.Engine.step", "(self, size=1, *rest, wait=0.5, **more)"),
        ("inner.engine.Engine.ask", "async (self, question, /, timeout=None)"),
        ("inner.engine.Engine.of", "classmethod (cls, args)"),
        ("inner.engine.Engine.parse", "staticmethod (text)"),
        ("inner.engine.Engine.ready", "property (self)"),
        ("inner.engine.Engine.cached", "(self, key=default)"),
        ("inner.engine.speed", "()"),
        ("inner.engine.twice", "(second)"),
        ("inner.inside", "(y)"),
        ("at_the_top", "(x)"),
        ("inner.engine.Engine.missing", None),
        ("inner.engine.Missing.step", None),
        ("inner.engine.fast", None),
        ("inner.engine", None),
        ("inner.missing.step", None),
        ("missing", None),
    ],
)
def test_a_signature_is_read_from_source_without_importing(host: Path, name: str, signature: str | None) -> None:
    assert check.declared(f"pretend_host.{name}") == signature


def test_a_package_that_is_not_installed_declares_nothing() -> None:
    assert check.declared("no_such_package.module.function") is None


def row(target: str, signature: str) -> Hook:
    return Hook(target=target, kind="around", roles=("main",), signature=signature, function="launch:add_flags")


def test_findings_and_their_sentences(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "installed_version", lambda: "0.5.23")
    rows = [
        row("pretend_host.inner.engine.twice", "(second)"),
        row("pretend_host.inner.engine.twice", "(first)"),
        row("pretend_host.inner.engine.gone", "()"),
    ]
    findings = check.examine(rows)
    assert [finding.status for finding in findings] == ["ok", "changed", "missing"]
    with pytest.raises(HookError, match=r"twice has changed: expected \(first\), found \(second\) .*install sglang>="):
        check.require(rows[:2])
    with pytest.raises(HookError, match=r"gone is missing from the installed SGLang"):
        check.require(rows[2:])
    check.require(rows[:1])


@pytest.mark.parametrize("version", ["0.5.22", "0.5.24", "0.5.23rc1", "0.6", "1.0.0", "none", "0.5"])
def test_another_sglang_is_refused_by_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "installed_version", lambda: version)
    with pytest.raises(HookError, match=r"supports sglang>=0\.5\.23,<0\.5\.24"):
        check.require_version()


@pytest.mark.parametrize("version", ["0.5.23", "0.5.23.post1", "0.5.23+cpu"])
def test_the_supported_sglang_is_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "installed_version", lambda: version)
    check.require_version()


def test_the_report_tells_what_is_wrong(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "installed_version", lambda: "0.5.23")
    good = row("pretend_host.inner.engine.twice", "(second)")
    bad = row("pretend_host.inner.engine.twice", "(third)")
    assert check.report([good]) == 0
    assert "pretend_host.inner.engine.twice  around  main  ok" in capsys.readouterr().out
    assert check.report([good, bad]) == 1
    assert "changed: expected (third), found (second)" in capsys.readouterr().out
    monkeypatch.setattr(check, "installed_version", lambda: "0.5.24")
    assert check.report([good]) == 1
    assert "supports sglang>=0.5.23,<0.5.24" in capsys.readouterr().out


def test_the_report_as_json(host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "installed_version", lambda: "0.5.23")
    assert check.report([row("pretend_host.inner.engine.gone", "()")], as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["sglang"] == "0.5.23"
    assert told["error"] is None
    assert [(hook["target"], hook["status"], hook["found"]) for hook in told["hooks"]] == [
        ("pretend_host.inner.engine.gone", "missing", None)
    ]


@pytest.mark.host
def test_the_table_matches_the_installed_sglang() -> None:
    check.require(HOOKS)


@pytest.mark.host
def test_the_report_on_the_installed_sglang(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.report() == 0
    assert capsys.readouterr().out.count("  ok\n") == len(HOOKS)


def test_no_place_is_hooked_by_the_same_function_twice() -> None:
    places = [(hook.target, hook.function, role) for hook in HOOKS for role in hook.roles]
    assert len(places) == len(set(places))


def test_the_stages_of_the_main_process_share_no_place() -> None:
    early, late = ({hook.target for hook in hooks_of(role)} for role in ("parser", "main"))
    assert not early & late
