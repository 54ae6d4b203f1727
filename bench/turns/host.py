"""SGLang's own tokenizer manager and chat API in this process, with nothing behind them."""

import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from sglang_paste.config import Settings
from sglang_paste.patches import arm, turns
from sglang_paste.patches.table import DELTA_TURNS
from sglang_paste.patches.turns import Turns

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
MODEL = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m"


class Host(NamedTuple):
    """The real objects; what they send to the scheduler is in `sent`."""

    manager: Any
    chat: Any
    sent: list[Any]


def start(model: Path = MODEL, **arguments: Any) -> Host:
    """Make them as the server does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
        from sglang.srt.managers.tokenizer_manager import TokenizerManager
        from sglang.srt.parser.template_manager import TemplateManager
        from sglang.srt.runtime_context import publish
        from sglang.srt.server_args import PortArgs, ServerArgs

        flags = {"device": "cpu", "attention_backend": "torch_native", "tool_call_parser": "hermes", **arguments}
        server_args = ServerArgs(model_path=str(model), **flags)
        server_args.resolve_once()
        publish(server_args, role="tokenizer")
        manager = TokenizerManager(server_args, PortArgs.init_new(server_args))
        templates = TemplateManager()
        templates.initialize_templates(tokenizer_manager=manager, model_path=str(model))
    sent: list[Any] = []
    manager._dispatch_to_scheduler = sent.append
    manager.auto_create_handle_loop = lambda: None
    manager.context_len = 1 << 30
    return Host(manager, OpenAIServingChat(manager, templates), sent)


@contextmanager
def delta_turns(memory: int = 256) -> Iterator[Turns]:
    """The hooks of delta turns in place, and taken out again; gives what they keep, within `memory` MiB."""
    from sglang.srt.plugins.hook_registry import HookType, _wrap_fn

    kept = Turns(memory * 1024 * 1024)
    settings = Settings(
        tool_config=None, gateway_host="", gateway_port=0, run_dir="", state_dir="", session_memory=memory
    )
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(turns, "_turns", kept))
        stack.enter_context(mock.patch.object(arm, "_held", settings))
        for hook in DELTA_TURNS:
            path, _, name = hook.target.rpartition(".")
            original = getattr(pkgutil.resolve_name(path), name)
            wrapped = _wrap_fn(original, arm.load(hook), HookType(hook.kind))
            for owner in _owners(path, name, original):
                stack.enter_context(mock.patch.object(owner, name, wrapped))
        yield kept


def _owners(path: str, name: str, original: Any) -> list[Any]:
    """Where it is defined, and the modules that imported it from there."""
    owner = pkgutil.resolve_name(path)
    if isinstance(owner, type):
        return [owner]
    modules = [module for key, module in list(sys.modules.items()) if key.startswith("sglang.")]
    return [module for module in modules if vars(module).get(name) is original]
