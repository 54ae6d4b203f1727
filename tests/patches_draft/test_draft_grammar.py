"""What a grammar forces is drafted, and asking for it leaves the grammar as it was."""

import json
import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from boundary_host import decode, encode, own_tokenizer

from sglang_paste.draft.hints import Hints, Source

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    from sglang_paste.patches.draft_grammar import Forced
    from sglang_paste.patches.draft_lookup import Lookup

# SGLang says what xgrammar no longer listens to.
pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:max_rollback_tokens is deprecated")]

SCHEMA = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "shell": {"enum": ["bash"]}},
    "required": ["command", "shell"],
    "additionalProperties": False,
}
TEXT = '{"command": "ls", "shell": "bash"}'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return own_tokenizer()


@pytest.fixture(scope="module")
def backend(tokenizer: Any) -> Any:
    return XGrammarGrammarBackend(tokenizer, len(tokenizer), [tokenizer.eos_token_id], any_whitespace=False)


def test_every_token_that_is_forced_is_the_one_that_comes(tokenizer: Any, backend: Any) -> None:
    grammar = backend.dispatch_json(json.dumps(SCHEMA))
    forced, tokens, drafted = Forced(tokenizer), encode(TEXT), 0
    for place, token in enumerate(tokens):
        offered = forced.tokens(grammar, tokens[:place])
        assert list(offered) == tokens[place : place + len(offered)], decode(offered)
        assert forced.tokens(grammar, tokens[:place]) == offered
        drafted = max(drafted, len(offered))
        grammar.accept_token(token)
    assert drafted > 3


def test_a_grammar_that_was_asked_allows_what_it_did(backend: Any, tokenizer: Any) -> None:
    asked, left = (backend.dispatch_json(json.dumps(SCHEMA)) for _ in range(2))
    masks = [grammar.allocate_vocab_mask(len(tokenizer), 1, "cpu") for grammar in (asked, left)]
    for place, token in enumerate(encode(TEXT)):
        Forced(tokenizer).tokens(asked, encode(TEXT)[:place])
        for grammar, mask in zip((asked, left), masks, strict=True):
            grammar.fill_vocab_mask(mask, 0)
            grammar.accept_token(token)
        assert masks[0].equal(masks[1])
    asked.rollback(3)


def grammar(found: Any, *, terminated: bool = False) -> Any:
    return SimpleNamespace(is_terminated=lambda: terminated, try_jump_forward=lambda _tokenizer: found)


@pytest.mark.parametrize(
    "grammar",
    [None, grammar(None), grammar(([], "")), grammar(([], "more"), terminated=True)],
    ids=["none", "a choice", "nothing", "over"],
)
def test_where_nothing_is_forced_nothing_is_drafted(tokenizer: Any, grammar: Any) -> None:
    assert Forced(tokenizer).tokens(grammar, []) == ()


def test_an_end_that_may_be_one_with_what_follows_is_left_out(tokenizer: Any) -> None:
    forced = Forced(tokenizer).tokens(grammar(([], '{"command": "')), [])
    assert decode(forced) == '{"command":'


def test_a_text_is_divided_as_after_what_stands_before_it(tokenizer: Any) -> None:
    whole = encode('{"command": "ls')
    tail = whole[:2]
    assert Forced(tokenizer).tokens(grammar(([], '": "ls ')), tail)[:3] == tuple(whole[2:5])


def test_tokens_of_a_grammar_are_taken_as_they_are(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    assert Forced(tokenizer).tokens(grammar(([5, 6, end], "")), []) == (5, 6, end)


class Forces:
    """Grammars that are the tokens they force."""

    def of(self, req: Any) -> tuple[int, ...]:
        return req.grammar or ()


def test_what_is_forced_needs_no_match() -> None:
    tokens, lengths = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int32), torch.tensor([2, 2, 2])
    grammars = [None, (7, 8, 9, 10, 11), (7,)]
    reqs = [SimpleNamespace(rid=str(row), grammar=forced) for row, forced in enumerate(grammars)]
    lookup = Lookup(Hints(), 4, ("grammar",), Forces())  # type: ignore[arg-type]
    (found,) = lookup.find(reqs, tokens, lengths)
    assert (found.source, found.rows) == ("grammar", [1, 2])
    assert found.match.tokens.tolist() == [[7, 8, 9, 10], [7, -1, -1, -1]]
    assert found.match.count.tolist() == [4, 1]
    assert list(lookup.find(reqs[:1], tokens[:1], lengths[:1])) == []


def test_only_what_is_wanted_is_looked_up() -> None:
    hints = Hints()
    hints.put("0", Source.PAST, [[5, 6, 1]])
    tokens, lengths = torch.tensor([[5, 6]], dtype=torch.int32), torch.tensor([2])
    req = [SimpleNamespace(rid="0", grammar=None)]
    assert [each.source for each in Lookup(hints, 4, ("past",)).find(req, tokens, lengths)] == [Source.PAST]
    assert list(Lookup(hints, 4, ()).find(req, tokens, lengths)) == []


def test_a_grammar_that_fails_costs_its_drafts_alone(tokenizer: Any) -> None:
    def fail(_tokenizer: Any) -> None:
        raise ValueError("broken")

    broken = SimpleNamespace(is_terminated=lambda: False, try_jump_forward=fail)
    req = SimpleNamespace(rid="r", grammar=broken, origin_input_ids_unpadded=[1, 2], output_ids=[3])
    assert Forced(tokenizer).of(req) == ()
    req.grammar = grammar(([5, 6, tokenizer.eos_token_id], ""))
    assert Forced(tokenizer).of(req) == (5, 6, tokenizer.eos_token_id)
