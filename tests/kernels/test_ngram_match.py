"""`ngram_match`: the fast path gives the reference's integers."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor

from sglang_paste.kernels.ngram_match import Match, Prefer, host, reference

POISON = -77
prefers = st.sampled_from(["recent", "frequent"])


def poisoned(text: Tensor, draft: int) -> Match:
    tokens = torch.full((len(text), draft), POISON, dtype=text.dtype)
    return Match(tokens, *torch.full((2, len(text)), POISON, dtype=torch.int32))


@settings(max_examples=60)
@given(st.data(), st.sampled_from([torch.int32, torch.int64]), prefers)
def test_host_is_the_reference(data: st.DataObject, dtype: torch.dtype, prefer: Prefer) -> None:
    rows, capacity = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0, 1, 63, 100]))
    ids = st.lists(st.integers(-1, 2), min_size=capacity, max_size=capacity)
    text = torch.tensor(data.draw(st.lists(ids, min_size=rows, max_size=rows)), dtype=dtype).view(rows, capacity)
    lengths = torch.tensor([data.draw(st.integers(0, capacity)) for _ in range(rows)])
    least, draft = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 9))
    most = data.draw(st.integers(least, 12))
    ours, truth = poisoned(text, draft), poisoned(text, draft)
    host.ngram_match(text, lengths, text, lengths, least, most, draft, prefer, ours)
    reference.ngram_match(text, lengths, text, lengths, least, most, draft, prefer, truth)
    assert all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))
