"""A ledger over the policies of the ledger's cases."""

import pytest
from ledger_cases import POLICIES

from sglang_paste.config import Limits
from sglang_paste.speculate.ledger import Ledger


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(POLICIES, Limits())
