"""Applying hooks, and noticing when they are not in place: with SGLang's own registry on a host of our own."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import pytest

from sglang_paste.config import Settings
from sglang_paste.errors import HookError
from sglang_paste.patches import arm, check, roles
from sglang_paste.patches.table import Hook, Kind, Role

pytestmark = pytest.mark.host

SOURCE = """
def free(x): return x

class Base:
    def inherited(self): return "base"

class Engine(Base):
    def step(self, size=1): return size
    @classmethod
    def of(cls, n): return n
    @staticmethod
    def parse(text): return text
"""

OURS = """
from sglang_paste_test_host.engine import Engine

def louder(result, *args): return f"{result}!"
def around(original, *args): return ["around", original(*args)]
def instead(*args): return "instead"
def before(*args): return (*args[:-1], 9), {}
class Better(Engine):
    def step(self, size=1): return "better"
class Foreign:
    def step(self, size=1): return "foreign"
text = "no function"
"""

Row = Callable[..., Hook]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    from sglang.srt.plugins.hook_registry import HookRegistry

    monkeypatch.setattr(HookRegistry, "_hooks", type(HookRegistry._hooks)(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    monkeypatch.setattr(arm, "_armed", set())
    monkeypatch.setattr(arm, "_held", None)
    monkeypatch.setattr(check, "installed_version", lambda: "0.5.23")
    monkeypatch.setenv(arm.ENVIRONMENT, "")
    return HookRegistry


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Any) -> Iterator[ModuleType]:
    package = tmp_path / "sglang_paste_test_host"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "engine.py").write_text(SOURCE)
    (package / "ours.py").write_text(OURS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(arm, "__package__", "sglang_paste_test_host")
    import sglang_paste_test_host.engine as engine  # type: ignore[import-not-found]

    yield engine
    for name in [name for name in sys.modules if name.startswith("sglang_paste_test_host")]:
        del sys.modules[name]


def row(name: str, kind: Kind, signature: str, function: str) -> Hook:
    target = f"sglang_paste_test_host.engine.{name}"
    return Hook(target=target, kind=kind, roles=("scheduler",), signature=signature, function=f"ours:{function}")


def test_each_kind_is_applied_and_seen_to_be(host: ModuleType) -> None:
    rows = [
        row("free", "after", "(x)", "louder"),
        row("Engine.step", "around", "(self, size=1)", "around"),
        row("Engine.of", "before", "classmethod (cls, n)", "before"),
        row("Engine.parse", "replace", "staticmethod (text)", "instead"),
    ]
    arm.apply("scheduler", rows)
    assert host.free(1) == "1!"
    assert host.Engine().step(2) == ["around", 2]
    assert host.Engine.of(1) == 9
    assert host.Engine.parse("x") == "instead"


def test_two_hooks_of_one_place(host: ModuleType) -> None:
    arm.apply("scheduler", [row("free", "after", "(x)", "louder"), row("free", "around", "(x)", "around")])
    assert host.free(1) == ["around", "1!"]


def test_a_class_is_replaced_and_its_overrides_are_checked(host: ModuleType) -> None:
    rows = [
        row("Engine", "replace", "class (Base)", "Better"),
        row("Engine.step", "override", "(self, size=1)", "Better.step"),
    ]
    arm.apply("scheduler", rows)
    assert host.Engine().step() == "better"


def test_only_the_rows_of_the_role_are_touched(host: ModuleType) -> None:
    before = host.free
    arm.apply("detokenizer", [row("free", "after", "(x)", "louder")])
    assert host.free is before


def test_a_patch_refuses_to_be_applied_twice(host: ModuleType) -> None:
    rows = [row("free", "after", "(x)", "louder")]
    arm.apply("scheduler", rows)
    with pytest.raises(HookError, match="are applied already"):
        arm.apply("scheduler", rows)
    assert host.free(1) == "1!"


def test_a_place_that_another_plugin_has_patched_is_refused(host: ModuleType, registry: Any) -> None:
    registry.register("sglang_paste_test_host.engine.free", lambda result, *_args: result)
    registry.apply_hooks()
    with pytest.raises(HookError, match="free is patched already; start without the other plugin"):
        arm.apply("scheduler", [row("free", "after", "(x)", "louder")])


def test_a_plugin_loaded_before_us_keeps_its_hook(host: ModuleType, registry: Any) -> None:
    registry.register("sglang_paste_test_host.engine.free", lambda result, *_args: result + 1)
    arm.apply("scheduler", [row("free", "after", "(x)", "louder")])
    assert host.free(1) == "2!"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (row("free", "after", "(x, y)", "louder"), r"free has changed: expected \(x, y\), found \(x\)"),
        (row("gone", "after", "()", "louder"), "gone is missing from the installed SGLang"),
        (row("Engine.inherited", "after", "(self)", "louder"), "inherited is missing"),
        (row("free", "after", "(x)", "nothing"), "the hook ours:nothing .* cannot be imported"),
        (row("free", "after", "(x)", "text"), "is no function"),
        (row("Engine", "around", "class (Base)", "around"), "did not take its hook ours:around"),
        (row("Engine.step", "override", "(self, size=1)", "Foreign.step"), "did not take its hook"),
    ],
)
def test_a_wrong_row_is_an_error(host: ModuleType, wrong: Hook, sentence: str) -> None:
    with pytest.raises(HookError, match=sentence):
        arm.apply("scheduler", [wrong])


def test_a_hook_that_somebody_undid_is_not_in_place(host: ModuleType) -> None:
    original = host.free
    hook = row("free", "after", "(x)", "louder")
    arm.apply("scheduler", [hook])
    assert arm.in_place(hook, arm.load(hook))
    host.free = original
    assert not arm.in_place(hook, arm.load(hook))


def held(run_dir: Path) -> Settings:
    return Settings(
        tool_config=None,
        gateway_host="127.0.0.1",
        gateway_port=1,
        run_dir=str(run_dir),
        state_dir=str(run_dir),
        api_key="a secret",
    )


def test_a_child_takes_its_settings_from_the_environment(
    host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arm, "current_role", lambda: "detokenizer")
    arm.enter()
    with pytest.raises(HookError, match="tool speculation is off"):
        arm.settings()
    settings = arm.without_key(held(tmp_path))
    monkeypatch.setenv(arm.ENVIRONMENT, msgspec.json.encode(settings).decode())
    arm.enter()
    assert arm.settings() == settings
    assert "a secret" not in os.environ[arm.ENVIRONMENT]


def test_a_main_process_clears_what_it_inherited(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(arm.ENVIRONMENT, "{}")
    monkeypatch.setattr(sys, "argv", ["sglang"])
    arm.enter()
    assert arm.ENVIRONMENT not in os.environ


def test_a_child_that_finds_a_hook_amiss_ends_and_says_why(
    host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arm, "current_role", lambda: "scheduler")
    monkeypatch.setattr(arm.apply, "__defaults__", ([row("gone", "after", "()", "louder")],))
    monkeypatch.setenv(arm.ENVIRONMENT, msgspec.json.encode(held(tmp_path)).decode())
    with pytest.raises(SystemExit) as end:
        arm.enter()
    assert end.value.code == 2
    sentence = (tmp_path / "scheduler.refusal").read_text()
    assert sentence.startswith("sglang_paste_test_host.engine.gone is missing")
    assert capsys.readouterr().err == f"sglang-paste: {sentence}\n"


def test_outside_of_a_child_the_role_is_main() -> None:
    assert roles.current_role() == "main"


def ask() -> Role:
    return roles.current_role()


@pytest.mark.parametrize(
    ("module", "entry", "role"),
    [
        ("sglang.srt.managers.scheduler", "run_scheduler_process", "scheduler"),
        ("sglang.srt.managers.detokenizer_manager", "run_detokenizer_process", "detokenizer"),
        ("sglang.srt.managers.data_parallel_controller", "run_data_parallel_controller_process", "controller"),
        ("elsewhere", "run_scheduler_process", "main"),
    ],
)
def test_a_child_is_known_by_its_entry(module: str, entry: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    assert FunctionType(ask.__code__.replace(co_name=entry), {"__name__": module, "roles": roles})() == role
    assert check.declared(f"{module}.{entry}") is not None or module == "elsewhere"
