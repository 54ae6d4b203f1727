"""What is looked up: a request's own text, and its hints in order of trust."""

from types import SimpleNamespace

import torch

from sglang_paste.draft.chance import Chance
from sglang_paste.draft.hints import Hints, Source
from sglang_paste.patches.draft_lookup import Lookup


def find(hints: Hints, *texts: list[int]) -> list[tuple[str, list[int], list[list[int]]]]:
    """By source, the rows and what was found for them."""
    width = max(map(len, texts))
    tokens = torch.tensor([text + [7] * (width - len(text)) for text in texts], dtype=torch.int32)
    reqs = [SimpleNamespace(rid=str(number)) for number in range(len(texts))]
    found = Lookup(hints, 4).find(reqs, tokens, torch.tensor(list(map(len, texts))))
    return [
        (
            each.source,
            each.rows,
            [row[:count] for row, count in zip(each.match.tokens.tolist(), each.match.count.tolist(), strict=True)],
        )
        for each in found
    ]


def test_the_own_text_is_looked_up_for_everybody() -> None:
    assert find(Hints(), [1, 2, 3, 1, 2], [5, 6]) == [("history", [0, 1], [[3, 1, 2], []])]


def test_hints_are_looked_up_for_those_who_have_them_the_likeliest_first() -> None:
    hints = Hints()
    hints.put("1", Source.PREDICTED, [[9, 5, 6, 8, 8], [9, 5, 6, 4, 4]])
    assert find(hints, [1, 2], [3, 5, 6]) == [("predicted", [1], [[8, 8]]), ("history", [0, 1], [[], []])]


def test_the_longest_match_of_a_hint_wins() -> None:
    hints = Hints()
    hints.put("0", Source.PAST, [[5, 6, 1, 1], [3, 5, 6, 2, 2]])
    assert find(hints, [3, 5, 6])[1] == ("past", [0], [[2, 2]])


def test_a_hint_that_is_replaced_is_looked_up_anew() -> None:
    hints = Hints()
    lookup = Lookup(hints, 4)
    tokens, lengths = torch.tensor([[3, 5, 6]], dtype=torch.int32), torch.tensor([3])
    req = [SimpleNamespace(rid="0")]
    for follows in (1, 2):
        hints.put("0", Source.PREDICTED, [[5, 6, follows]])
        assert next(lookup.find(req, tokens, lengths)).match.tokens[0, 0] == follows
    hints.drop("0")
    assert [each.source for each in lookup.find(req, tokens, lengths)] == [Source.HISTORY]


def test_matches_reach_no_further_than_one_text() -> None:
    hints = Hints()
    hints.put("0", Source.PAST, [[5, 6, 1], [2, 3, 4]])
    assert find(hints, [5, 6])[1] == ("past", [0], [[1]])


def chance_of(hints: Hints, text: list[int]) -> Chance | None:
    """What is known of the first draft for a text."""
    tokens, lengths = torch.tensor([text], dtype=torch.int32), torch.tensor([len(text)])
    found = next(Lookup(hints, 4).find([SimpleNamespace(rid="0")], tokens, lengths))
    ((_, offer),) = found.offers()
    return offer.chance


def test_a_foreseen_call_has_its_chance_from_its_beginning_on() -> None:
    hints, prompt = Hints(), [1, 2, 3, 4]
    likely, other = list(range(10, 60)), [10, 11, 70, 71, 14, 15]
    hints.put("0", Source.PREDICTED, [[*prompt, *likely], [*prompt, *other]], probabilities=[0.7, 0.2])
    assert chance_of(hints, prompt) == Chance(0.7, 0)
    assert chance_of(hints, [*prompt, *likely[:9]]) == Chance(0.7, 9)
    assert chance_of(hints, [*prompt, 10, 11, 70]) == Chance(0.2, 3)
    assert chance_of(hints, [*prompt, 9, *likely[:3]]) == Chance(0.7, 3), "it begins later than was thought"
    assert chance_of(hints, [*prompt, 10, 99, 12, 13]) is None, "another call has come back to its text"
    assert chance_of(hints, [*prompt, *likely[:40]]) is None, "too far on to see its beginning"
    hints.put("0", Source.PREDICTED, [[*prompt, *likely]])
    assert chance_of(hints, prompt) is None


def test_spread_over_the_batch() -> None:
    hints = Hints()
    hints.put("1", Source.PREDICTED, [[5, 6, 8]])
    reqs = [SimpleNamespace(rid=str(number)) for number in range(2)]
    tokens = torch.tensor([[1, 2], [5, 6]], dtype=torch.int32)
    found = next(Lookup(hints, 4).find(reqs, tokens, torch.tensor([2, 2])))
    spread, counts = found.spread(2)
    assert (spread[1, 0], counts.tolist()) == (8, [0, 1])
