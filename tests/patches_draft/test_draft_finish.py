"""An answer whose tokens come several at a time ends where it would if they came one by one."""

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]

LETTERS, END = "abc", 3


class Tokenizer:
    """A token is a letter, but for the one that ends answers."""

    eos_token_id = END
    additional_stop_token_ids: frozenset[int] = frozenset()

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join("abc."[token] for token in ids)

    def encode(self, text: str, **_: Any) -> list[int]:
        return list(range(len(text)))


def request(stops: list[str], regex: list[str], most: int) -> Any:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    params = SamplingParams(max_new_tokens=most, stop=stops, stop_regex=regex)
    params.normalize(Tokenizer())  # type: ignore[arg-type]
    req = Req("r", "", array("q", [0]), params, eos_token_ids={END}, vocab_size=4)
    req.tokenizer = Tokenizer()
    return req


Finish = Callable[[Any, int], None]


def plainly(req: Any, count: int) -> None:
    type(req).update_finish_state(req, count)


def in_order(req: Any, count: int) -> None:
    from sglang_paste.patches.draft_finish import finishing

    finishing(type(req).update_finish_state, req, count)


def answered(req: Any, tokens: list[int], size: int, finish: Finish) -> tuple[list[int], object]:
    """What is handed out, and why it ended."""
    for at in range(0, len(tokens), size):
        run = tokens[at : at + size]
        req.output_ids.extend(run)
        finish(req, len(run))
        if req.finished():
            break
        assert list(req.output_ids) == tokens[: at + len(run)]
    handed = list(req.output_ids)[: req.finished_len]
    return handed, req.finished_reason and req.finished_reason.to_json()


CASES = {
    "tokens": st.lists(st.integers(0, END), max_size=10),
    "size": st.integers(2, 6),
    "stops": st.lists(st.text(LETTERS, min_size=1, max_size=3), max_size=3),
    "regex": st.lists(st.sampled_from(["ab+c", "c$", "a.b"]), max_size=2),
    "most": st.integers(1, 12),
}


@given(**CASES)
def test_it_ends_where_it_would_one_by_one(
    tokens: list[int], size: int, stops: list[str], regex: list[str], most: int
) -> None:
    alone = answered(request(stops, regex, most), tokens, 1, plainly)
    assert answered(request(stops, regex, most), tokens, size, in_order) == alone


@pytest.mark.parametrize(
    ("text", "stops", "handed"),
    [("a.bc", ["bc"], "a."), ("abcab", ["ca", "bc"], "abc")],
)
def test_sglang_alone_ends_it_elsewhere(text: str, stops: list[str], handed: str) -> None:
    tokens = ["abc.".index(letter) for letter in text]
    found = {
        finish.__name__: Tokenizer().decode(answered(request(stops, [], 99), tokens, 9, finish)[0])
        for finish in (in_order, plainly)
    }
    assert found["in_order"] == handed != found["plainly"]


def test_a_grammar_is_asked_when_it_has_all_tokens_of_the_step() -> None:
    class Ended:
        finished = False

        def is_terminated(self) -> bool:
            return True

    req = request(["c"], [], 99)
    req.grammar = Ended()
    assert answered(req, [0, 1, 0], 3, in_order)[0] == [0, 1, 0]
