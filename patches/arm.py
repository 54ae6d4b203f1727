"""What is patched in which process, and that it really is.

SGLang's plugin loader logs a failure and starts all the same, so everything here is applied and verified at once, and
what is wrong ends the process.
"""

import contextlib
import inspect
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from sglang_paste.config import Settings
from sglang_paste.errors import HookError, PasteError
from sglang_paste.patches import check, flags
from sglang_paste.patches.roles import current_role
from sglang_paste.patches.table import HOOKS, Hook, Role, hooks_of

ENVIRONMENT = "SGLANG_PASTE_SETTINGS"
# How long a child that refuses waits for the main process to end.
REPEATED_WITHIN_S = 30.0

T = TypeVar("T")

_held: Settings | None = None
_armed: set[Role] = set()


def enter() -> None:
    """What a process does when it loads its plugins."""
    role = current_role()
    if role == "main":
        os.environ.pop(ENVIRONMENT, None)
        if flags.mentioned(sys.argv[1:]):
            or_stop(lambda: apply("parser"))
    elif text := os.environ.get(ENVIRONMENT):
        hold(msgspec.json.decode(text, type=Settings))
        or_stop(lambda: apply(role))
        if role == "scheduler":
            _connect(role)
    if role in ("main", "scheduler"):
        _offer_cpu_backend()


def _connect(role: Role) -> None:
    """What the first request of a process has to say must not meet a connection that is still being made."""
    from sglang_paste.patches import bus

    bus.sink(role)


def settings() -> Settings:
    """The settings of this server. Only the main process knows the API key."""
    if _held is None:
        raise HookError("tool speculation is off in this process; start the server with --enable-tool-speculation")
    return _held


def hold(value: Settings) -> None:
    """Keep the settings of this process."""
    global _held
    _held = value


def arm_main() -> None:
    """Check the whole table, patch the main process, and tell the children."""
    if "main" in _armed:
        return
    check.require(HOOKS)
    _apply("main", hooks_of("main"))
    os.environ[ENVIRONMENT] = msgspec.json.encode(without_key(settings())).decode()


def apply(role: Role, hooks: Sequence[Hook] = HOOKS) -> None:
    """Check, register, apply and verify the hooks of a process.

    Raises HookError for a hook that is missing, changed, already applied, or not in place afterwards.
    """
    wanted = hooks_of(role, hooks)
    check.require(wanted)
    _apply(role, wanted)


def load(hook: Hook) -> Callable[..., Any]:
    """Our side of a row. Raises HookError where it cannot be imported."""
    try:
        function: object = pkgutil.resolve_name(f"{__package__}.{hook.function}")
    except (ImportError, AttributeError) as error:
        raise HookError(f"the hook {hook.function} for {hook.target} cannot be imported ({error})") from error
    if not callable(function):
        raise HookError(f"the hook {hook.function} for {hook.target} is no function")
    return function


def in_place(hook: Hook, function: Callable[..., Any]) -> bool:
    """Whether a call of the target now reaches our function."""
    path, _, name = hook.target.rpartition(".")
    owner = pkgutil.resolve_name(path)
    if hook.kind == "override":
        ours = pkgutil.resolve_name(f"{__package__}.{hook.function.rpartition('.')[0]}")
        return isinstance(ours, type) and issubclass(ours, owner) and getattr(ours, name) is function
    layer = inspect.getattr_static(owner, name, None)
    if isinstance(layer, classmethod | staticmethod):
        layer = layer.__func__
    while layer is not None:
        if layer is function or any(captured is function for captured in _captured(layer)):
            return True
        layer = getattr(layer, "__wrapped__", None)
    return False


def stop(error: PasteError) -> NoReturn:
    """End this process with one sentence; a child leaves it for the main process to repeat."""
    print(f"sglang-paste: {error}", file=sys.stderr, flush=True)
    if _held is not None and current_role() != "main":
        from sglang_paste.speculate.supervisor import leave_refusal

        leave_refusal(_held.run_dir, current_role(), str(error))
        if parent := multiprocessing.parent_process():
            # A child that ends first is a crash to SGLang, which kills the server before it has said why.
            parent.join(REPEATED_WITHIN_S)
    raise SystemExit(2)


def without_key(value: Settings) -> Settings:
    """The settings as the children get them: their environment is no place for a secret."""
    return msgspec.structs.replace(value, api_key=None)


def _apply(role: Role, hooks: Sequence[Hook]) -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookSource, HookType

    if role in _armed:
        raise HookError(f"the {role} hooks are applied already; register the plugin once")
    _armed.add(role)
    source = HookSource(plugin_name="paste", dist_name="sglang-paste")
    functions = [load(hook) for hook in hooks]
    for hook, function in zip(hooks, functions, strict=True):
        if hook.kind == "override":
            continue
        if hook.target in HookRegistry._patched:
            raise HookError(f"{hook.target} is patched already; start without the other plugin that hooks it")
        HookRegistry.register(hook.target, function, HookType(hook.kind), source=source)
    HookRegistry.apply_hooks()
    for hook, function in zip(hooks, functions, strict=True):
        if not in_place(hook, function):
            raise HookError(f"{hook.target} did not take its hook {hook.function}; see the log above for the reason")


def or_stop(act: Callable[[], T]) -> T:
    """What comes of it, or the end of this process with the sentence of what is in the way."""
    try:
        return act()
    except PasteError as error:
        stop(error)


def _captured(layer: object) -> Iterator[object]:
    for cell in getattr(layer, "__closure__", None) or ():
        with contextlib.suppress(ValueError):
            yield cell.cell_contents


def _offer_cpu_backend() -> None:
    """The attention backend for machines without a GPU: an entry in SGLang's registry, with or without our flag."""
    if os.environ.get("SGLANG_USE_CPU_ENGINE") != "1":
        return
    from sglang_paste.patches.cpu.attention import register_backend

    register_backend()
