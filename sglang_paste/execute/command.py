"""Programs as tools."""

import functools
import math
import os
import signal

import msgspec

from sglang_paste.calls import Arguments, ToolCall
from sglang_paste.config import CommandTool
from sglang_paste.execute.base import Outcome
from sglang_paste.execute.process import Capture, Overrun, Process, communicate
from sglang_paste.execute.runs import Gate, TaskRun
from sglang_paste.execute.sandbox import Confinement, environment_of, wrap
from sglang_paste.execute.template import ArgvTemplate, Item
from sglang_paste.policy import policy_of

STDERR_LIMIT = 64 * 1024
SANDBOX_COMPLAINTS = ("bwrap: ", "prlimit: ")


class CommandExecutor:
    """Runs one program, each time from nothing."""

    def __init__(self, name: str, tool: CommandTool, refusal: str | None) -> None:
        """`refusal` says why there is no sandbox; None where there is one."""
        self._name = name
        self._tool = tool
        self._refusal = refusal if tool.sandbox else None
        self._argv = ArgvTemplate(tool.argv)
        self._stdin = Item.parse(tool.stdin or "")
        self._gate = Gate(tool.concurrency)
        self._environment: dict[str, str] = {}

    async def open(self) -> None:
        """Look up the environment; raises ConfigError."""
        self._environment = environment_of(self._tool, f"tools.{self._name}.environment")

    async def close(self) -> None:
        """Nothing is kept between runs."""

    def check(self, arguments: Arguments) -> None:
        """Raises BadArguments for what this program cannot be given."""
        self._argv.render(arguments)

    def launch(self, call: ToolCall, *, speculative: bool) -> TaskRun:
        """Start the program."""
        body = functools.partial(self._run, call.arguments)
        return TaskRun(self._name, body, gate=self._gate, timeout_s=self._tool.timeout_s, speculative=speculative)

    async def _run(self, arguments: Arguments, run: TaskRun) -> Outcome:
        if self._refusal is not None:
            return Outcome(failure="unavailable", content=f"{self._name} runs only in a sandbox: {self._refusal}")
        # A call that reads, by what its command is, sees the workspace read-only, whether it runs early or not.
        tool = policy_of(self._tool, arguments)
        argv = self._argv.render(arguments)
        if tool.sandbox:
            argv = wrap(argv, msgspec.structs.replace(Confinement.of(tool), cpu_s=_cpu_seconds(tool)))
        out, err = Capture(tool.output_limit), Capture(min(STDERR_LIMIT, tool.output_limit))
        folder = None if tool.sandbox else tool.workspace
        try:
            process = Process(
                argv, environment=self._environment, folder=folder, low=run.speculative, confined=tool.sandbox
            )
        except OSError as error:
            return Outcome(failure="unavailable", content=f"{self._name} cannot be started: {error.strerror}")
        run.on_promote = functools.partial(process.set_low, False)
        try:
            data = self._stdin.render(arguments).encode()
            code = await communicate(process, data, (out, err), (tool.memory_limit, tool.processes))
        except Overrun as overrun:
            return Outcome(content=_joined(out.text, f"[stopped: {overrun}]"), is_error=True, truncated=out.truncated)
        finally:
            await process.kill()
        return self._outcome(code, out, err)

    def _outcome(self, code: int, out: Capture, err: Capture) -> Outcome:
        complaint = err.text
        if complaint.startswith(SANDBOX_COMPLAINTS) and not out.text:
            return Outcome(failure="unavailable", content=f"{self._name} cannot be started: {complaint.strip()}")
        if code in self._tool.success_codes:
            return Outcome(content=out.text or complaint, truncated=out.truncated)
        content = _joined(out.text, complaint, f"[{_ending(code)}]")
        return Outcome(content=content, is_error=True, truncated=out.truncated or err.truncated)


def _cpu_seconds(tool: CommandTool) -> int:
    """What one process could use of all cores in the time it has; a last bound where nobody is left to stop it."""
    return math.ceil(tool.timeout_s) * (os.cpu_count() or 1) + 1


def _joined(*parts: str) -> str:
    return "\n".join(part.rstrip("\n") for part in parts if part.strip())


def _ending(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number in {each.value for each in signal.Signals}:
        return f"killed by {signal.Signals(number).name}"
    return f"exit code {code}"
