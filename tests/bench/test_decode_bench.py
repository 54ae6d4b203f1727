"""The bench of drafts: what it plays is what a session would be, and what it says is what was played."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from bench.decode import known
from bench.decode.__main__ import PREDICTED, SIDES, Work, summarise
from bench.decode.cases import CONTEXT, Format, cases, made_up
from bench.decode.lossless import batches, bodies, differences
from bench.decode.offered import Offering, without_predictions
from bench.decode.play import Played
from bench.decode.predicted import Expected, Guess, mined, predictions
from sglang_paste.draft.hints import Source
from sglang_paste.draft.offers import Offer
from sglang_paste.mine.records import Call


def letters(text: str) -> list[int]:
    """A tokenizer."""
    return [ord(letter) for letter in text]


def spelled(ids: list[int]) -> str:
    return "".join(map(chr, ids))


@pytest.fixture(scope="module")
def form() -> Format:
    return Format(letters)


def test_a_case_is_a_turn_with_calls_behind_all_before_it(form: Format) -> None:
    for chain in cases(made_up(4, random.Random(1)), form, 2):
        first, second = chain
        assert second.prompt[: len(first.prompt)] == first.prompt
        assert spelled(first.answer) in spelled(second.prompt)
        for case in chain:
            (call,) = case.session.turns[case.turn].tool_calls
            wanted = f'<tool_call>{{"name":"{call.name}", "arguments":'
            assert spelled(case.answer).startswith(wanted)
            assert spelled(case.answer).endswith("}</tool_call><|im_end|>")
            assert len(case.prompt) <= CONTEXT


def test_predictions_see_nothing_that_comes_later() -> None:
    sessions = made_up(30, random.Random(2))
    patterns = mined(sessions[:-1])
    whole = predictions(patterns, sessions[-1])
    assert any(each.opened for each in whole.values())
    assert any(each.named for each in whole.values())
    for turn, expected in whole.items():
        cut = sessions[-1].turns[: turn + 1]
        assert predictions(patterns, msgspec.structs.replace(sessions[-1], turns=cut))[turn] == expected


def texts(offers: Sequence[Offer], source: Source) -> list[Sequence[int]]:
    """What a source offers."""
    return [text for offer in offers if offer.source == source for text in offer.texts]


def test_hints_are_of_what_was_before_and_the_named_tool_alone_once_it_is_named(form: Format) -> None:
    sessions = made_up(6, random.Random(3))
    offering = Offering(form)
    offering.served(sessions[:-1], 40)
    (case,) = next(cases(sessions[-1:], form, 1))
    guess = Guess("read_file", {"path": "foreseen.py"}, 0.5)
    named = guess._replace(arguments={"path": "named.py"})
    given = offering.given(case, Expected([guess], [named]), ["read_file", "run_tests", "edit_file"])
    (foreseen,) = texts(given.began, Source.PREDICTED)
    assert spelled(foreseen[4:]) == form.calls([Call(guess.tool, guess.arguments)])
    assert "named.py" in spelled(texts(given.named, Source.PREDICTED)[0][4:])
    assert all(
        spelled([token for token in text if token > 0]).count("run_tests") == 0
        for text in texts(given.named, Source.PAST)
    )
    assert spelled(case.answer[: given.named_after]).endswith('"read_file", "arguments":')
    assert not texts(without_predictions(given).began, Source.PREDICTED)


def test_the_summary_is_of_all_calls_and_of_the_prose() -> None:
    seconds = {"stock": 4.0, "ngram": 2.0, "ours": 1.0, PREDICTED: 0.5}
    rows = [Played(side, "tau", 101, 50, taken) for side, taken in seconds.items()]
    rows += [Played("stock", "prose", 11, 10, 1.0), Played("ours", "prose", 11, 10, 1.0)]
    summary = summarise(rows, Work([], {}, 0, []))
    assert summary["speedup_vs_stock"] == 8.0
    assert summary["speedup_vs_ngram_unpredicted"] == 2.0
    assert summary["accept_length"] == summary["accept_length_ngram"] == 2.0
    assert summary["prose_speedup"] == 1.0
    assert set(summary["tokens_per_second"]) == {*SIDES, PREDICTED}


def test_answers_that_differ_or_failed_are_found() -> None:
    one, other, error = {"output_ids": [1]}, {"output_ids": [2]}, {"error": "x"}
    assert differences([one, one, error, one], [one, other, error, error]) == [1, 2, 3]


def test_the_requests_are_plain_and_with_grammars_and_go_in_four_parts() -> None:
    asked = bodies(18)
    assert sum("json_schema" in body["sampling_params"] for body in asked) == 4
    assert sum("regex" in body["sampling_params"] for body in asked) == 2
    parts = batches(asked)
    assert [size for size, _ in parts] == [1, 2, 4, 8]
    assert [body for _, part in parts for body in part] == asked
    assert json.loads(asked[2]["sampling_params"]["json_schema"])["required"]


def test_ngram_knows_answers_as_if_it_had_given_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "answers.json"
    file.write_bytes(msgspec.json.encode([[1, 2, 3, 4], [5]]))
    monkeypatch.setenv(known.VARIABLE, str(file))
    put: list[list[int]] = []
    corpus = SimpleNamespace(batch_put=put.extend, synchronize=lambda: put.append([]))
    known.made(None, SimpleNamespace(max_trie_depth=3, ngram_corpus=corpus))
    assert put == [[1], [1, 2], [1, 2, 3], [2, 3, 4], [5], []]
