from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.predict.memo import Memo


@given(st.lists(st.integers(0, 20)), st.integers(1, 5))
def test_gives_what_is_made_and_holds_no_more_than_its_limit(keys: list[int], limit: int) -> None:
    memo = Memo(lambda key: key * 2, limit)
    for key in keys:
        assert memo[key] == key * 2
        assert len(memo) <= limit


def test_makes_each_value_once() -> None:
    made: list[int] = []
    memo = Memo(made.append, 9)
    for key in (1, 2, 1, 2):
        memo[key]
    assert made == [1, 2]
