"""Registers the attention backend `paste_cpu` with SGLang; with or without tool speculation it can be chosen."""

from typing import Any

NAME = "paste_cpu"


def register_backend() -> None:
    """Make `--attention-backend paste_cpu` a choice and say how it is built. Calling it again changes nothing."""
    from sglang.srt.arg_groups import choices
    from sglang.srt.layers.attention.attention_registry import register_attention_backend

    if NAME not in choices.ATTENTION_BACKEND_CHOICES:
        choices.add_attention_backend_choices([NAME])
    register_attention_backend(NAME)(_build)


def _build(model_runner: Any) -> Any:
    from sglang_paste.patches.cpu.attention_backend import PasteCpuBackend

    return PasteCpuBackend(model_runner)
