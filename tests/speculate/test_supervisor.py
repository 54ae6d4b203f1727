"""The supervisor with real processes."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sglang_paste.config import Settings
from sglang_paste.speculate import supervisor as module
from sglang_paste.speculate.supervisor import Patience, Supervision, Supervisor, leave_refusal

SCRIPT = Path(__file__).with_name("side_process.py")
PATIENCE = Patience(first_pause=0.05, longest_pause=0.2, sound=60.0, starting=10.0, silent=1.5)

Start = Callable[[str], Supervisor]


class Refused:
    def __init__(self) -> None:
        self.event = threading.Event()
        self.times = 0
        self.busy_s = 0.0

    def __call__(self) -> None:
        time.sleep(self.busy_s)
        self.times += 1
        self.event.set()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return Settings(
        tool_config=None,
        gateway_host="127.0.0.1",
        gateway_port=port,
        run_dir=str(tmp_path),
        state_dir=str(tmp_path),
        api_key="a secret",
    )


@pytest.fixture
def refused() -> Refused:
    return Refused()


@pytest.fixture
def start(settings: Settings, refused: Refused) -> Iterator[Start]:
    started: list[Supervisor] = []

    def run(mode: str) -> Supervisor:
        command = [sys.executable, str(SCRIPT), mode]
        supervisor = Supervisor(settings, command=command, refused=refused, patience=PATIENCE)
        started.append(supervisor)
        supervisor.start()
        return supervisor

    yield run
    for supervisor in started:
        supervisor.stop()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_starts_says_when_ready_and_stops(start: Start, settings: Settings) -> None:
    supervisor = start("serve")
    assert supervisor.wait_ready(30)
    pid = supervisor.pid
    assert pid is not None
    assert alive(pid)
    supervisor.stop()
    assert not alive(pid)
    assert supervisor.starts == 1
    assert supervisor.refusal is None


def test_the_settings_come_with_the_key_and_not_on_the_command_line(start: Start, settings: Settings) -> None:
    supervisor = start("serve")
    assert supervisor.wait_ready(30)
    assert Path(settings.state_dir, "starts").read_text() == f"{supervisor.pid} a secret\n"
    for source in ("cmdline", "environ"):
        assert b"a secret" not in Path(f"/proc/{supervisor.pid}/{source}").read_bytes()


def test_a_killed_process_comes_back(start: Start, settings: Settings) -> None:
    supervisor = start("serve")
    assert supervisor.wait_ready(30)
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: supervisor.starts == 2 and supervisor._answers(), "it did not come back")
    assert supervisor.pid != first


def test_a_process_that_falls_silent_is_killed_and_comes_back(start: Start) -> None:
    supervisor = start("hang")
    assert supervisor.wait_ready(30)
    first = supervisor.pid
    assert first is not None
    wait_until(lambda: supervisor.starts == 2 and supervisor._answers(), "it was left hanging")
    assert not alive(first)


def test_a_process_that_talks_is_not_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[float] = []
    tell = Supervision.heard

    def hear(self: Supervision, now: float) -> None:
        heard.append(now)
        tell(self, now)

    monkeypatch.setattr(Supervision, "heard", hear)
    supervisor = start("serve")
    wait_until(lambda: len(heard) > 1 and heard[-1] - heard[0] > 2 * PATIENCE.silent, "it fell silent")
    assert supervisor.starts == 1


def test_a_crash_is_no_refusal(start: Start, refused: Refused) -> None:
    supervisor = start("crash")
    wait_until(lambda: supervisor.starts >= 3, "it was not started again")
    assert not refused.event.is_set()


def test_nobody_waits_for_a_process_that_is_gone(start: Start) -> None:
    began = time.monotonic()
    assert not start("crash").wait_ready(60)
    assert time.monotonic() - began < 30


def test_a_first_start_that_refuses_ends_it_with_a_sentence(start: Start, refused: Refused) -> None:
    supervisor = start("refuse")
    assert refused.event.wait(30)
    assert supervisor.refusal == "the port is taken"
    assert supervisor.starts == 1
    supervisor.stop()
    assert refused.times == 1


def test_who_waits_for_the_gateway_finds_the_refusal(start: Start, refused: Refused) -> None:
    refused.busy_s = 0.5
    supervisor = start("refuse")
    assert not supervisor.wait_ready(60)
    assert (supervisor.refusal, refused.times) == ("the port is taken", 1)


def test_a_later_refusal_is_only_another_failure(start: Start, refused: Refused) -> None:
    supervisor = start("refuse-later")
    wait_until(lambda: supervisor.starts >= 3, "it was not started again")
    assert not refused.event.is_set()


def test_a_child_of_the_server_that_refuses_ends_it(start: Start, settings: Settings, refused: Refused) -> None:
    supervisor = start("serve")
    leave_refusal(settings.run_dir, "scheduler", "a hook is missing")
    assert refused.event.wait(30)
    assert supervisor.refusal == "a hook is missing"


def test_a_process_that_ignores_the_request_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.2)
    supervisor = start("serve")
    assert supervisor.wait_ready(30)
    pid = supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    supervisor.stop()
    assert not alive(pid)


def test_a_command_that_is_not_there_is_tried_again(settings: Settings, refused: Refused) -> None:
    supervisor = Supervisor(settings, command=["/nowhere/at/all"], refused=refused, patience=PATIENCE)
    supervisor.start()
    try:
        wait_until(lambda: supervisor.starts >= 3, "it gave up")
    finally:
        supervisor.stop()
    assert not refused.event.is_set()
