"""Which of SGLang's processes this is."""

import multiprocessing
import sys

from sglang_paste.patches.table import Role

_ENTRIES: dict[tuple[str, str], Role] = {
    ("sglang.srt.managers.scheduler", "run_scheduler_process"): "scheduler",
    ("sglang.srt.managers.detokenizer_manager", "run_detokenizer_process"): "detokenizer",
    ("sglang.srt.managers.data_parallel_controller", "run_data_parallel_controller_process"): "controller",
}


def current_role() -> Role:
    """The role of the process that is loading its plugins: main unless one of SGLang's child entries is running.

    The modules a process has imported do not tell: the main process imports them all, and a scheduler that is
    launched ahead of its controller imports the controller too.
    """
    if multiprocessing.parent_process() is None:
        return "main"
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        role = _ENTRIES.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        if role is not None:
            return role
    return "main"
