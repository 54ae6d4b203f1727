"""The ledger with a shell of which some calls only read."""

import json

from ledger_cases import ONE, admit, make_call, make_candidate, make_returned, refused

from sglang_paste.config import Limits, Policy
from sglang_paste.execute.base import Outcome
from sglang_paste.speculate.ledger import Ledger

FILES = ("session:files",)
SHELL = Policy(
    reads=FILES, writes=FILES, speculate=True, observes="local", inert=("why",), reads_when={"command": ("ls", "cat")}
)
READ = Policy(effect="read", reads=FILES, speculate=True, observes="local")
LS, RM = {"command": "ls | cat", "why": "to see"}, {"command": "ls && rm a", "why": "to see"}


def ledger_of(shell: Policy = SHELL) -> Ledger:
    return Ledger({"shell": shell, "read": READ}, Limits())


def test_only_calls_that_read_are_admitted() -> None:
    ledger = ledger_of()
    assert refused(ledger, make_candidate("shell", RM)) == "policy"
    entry = admit(ledger, make_candidate("shell", LS))
    ledger.started(entry, 0.0)
    ledger.settled(entry, Outcome(content="a"), 1.0)
    assert ledger.claim(make_call("shell", {**LS, "why": "again"}), 1.0).kind == "reused"


def test_a_call_that_reads_squashes_nothing_and_one_that_writes_does() -> None:
    ledger = ledger_of()
    read, look = admit(ledger, make_candidate("read")), admit(ledger, make_candidate("shell", LS))
    assert ledger.begin_write(make_call("shell", {"command": "cat a"}), ONE, 1.0) == (None, [])
    footprint, squashed = ledger.begin_write(make_call("shell", RM), ONE, 1.0)
    assert (footprint is not None, squashed) == (True, [read, look])
    assert refused(ledger, make_candidate("shell", LS)) == "write under way"


def test_calls_that_ran_elsewhere_are_told_apart_as_well() -> None:
    ledger = ledger_of()
    read = admit(ledger, make_candidate("read"))
    assert ledger.returned(make_returned("shell", json.dumps(LS)), 1.0) == []
    assert ledger.returned(make_returned("shell", json.dumps(RM)), 1.0) == [read]
    again = admit(ledger, make_candidate("read"))
    assert ledger.returned(make_returned("shell", "no JSON"), 1.0) == [again]
