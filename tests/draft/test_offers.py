"""What is offered to a turn is its own: the session's foreseen calls, its tenant's past ones, its tools' skeletons."""

import json
from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.draft.foreseen import Key
from sglang_paste.draft.hints import MAX_TEXTS, MAX_TOKENS, Source
from sglang_paste.draft.offers import SEPARATOR, Offer, Offers, joined
from sglang_paste.draft.render import Frame, Style
from sglang_paste.events import Draft, ForeseenCall

A, B = TenantId("a"), TenantId("b")
FIRST, SECOND = (A, SessionId("1")), (A, SessionId("2"))
SCHEMAS = {
    "read": {"properties": {"path": {"type": "string"}}, "required": ["path"]},
    "stop": {"properties": {}},
}
FRAME = Frame("<call>", " ", "</call>", Style(",", ":"))
PROMPT = [7, 8, 9, 10, 11]


def encode(text: str) -> tuple[int, ...]:
    """A token for each character."""
    return tuple(map(ord, text))


def text_of(tokens: Sequence[int]) -> list[str]:
    """The texts that stand in a row."""
    return "".join("\n" if token == SEPARATOR else chr(token) for token in tokens).split("\n")


def desk(*wanted: Source) -> Offers:
    return Offers(encode, FRAME.write, wanted or tuple(Source))


def draft(whose: Key, *calls: tuple[str, str, float]) -> Draft:
    told = tuple(ForeseenCall(tool=tool, arguments=text, probability=p) for tool, text, p in calls)
    return Draft(tenant=whose[0], session=whose[1], time=0.0, calls=told)


def of(offers: Sequence[Offer], source: Source) -> list[str]:
    (offer,) = [offer for offer in offers if offer.source == source]
    return [text for tokens in offer.texts for text in text_of(tokens)]


def test_a_foreseen_call_follows_the_end_of_the_prompt() -> None:
    offers = desk(Source.PREDICTED)
    assert offers.foresaw(draft(FIRST, ("read", '{"path": "a"}', 0.5))) == []
    (offer,) = offers.began("r", FIRST, SCHEMAS, PROMPT)
    assert offer.texts == ((8, 9, 10, 11, *encode('<call>read {"path":"a"}</call>')),)
    assert offer.probabilities == (0.5,)


def test_what_is_foreseen_later_reaches_the_turns_under_way() -> None:
    offers = desk(Source.PREDICTED)
    offers.began("r", FIRST, SCHEMAS, [])
    offers.began("s", SECOND, SCHEMAS, [])
    told = offers.foresaw(draft(FIRST, ("stop", "{}", 0.2), ("read", "{}", 0.7)))
    assert [offer.request for offer in told] == ["r"]
    assert of(told, Source.PREDICTED) == ["<call>read {}</call>", "<call>stop {}</call>"]


def test_a_name_leaves_the_calls_of_that_tool_until_the_next_one_opens() -> None:
    offers = desk(Source.PREDICTED)
    offers.began("r", FIRST, SCHEMAS, [])
    offers.foresaw(draft(FIRST, ("stop", "{}", 0.2), ("read", "{}", 0.7)))
    assert of(offers.named("r", "stop"), Source.PREDICTED) == ["<call>stop {}</call>"]
    assert len(of(offers.opened("r"), Source.PREDICTED)) == 2
    assert offers.opened("r") == []


def test_with_its_turn_goes_what_was_foreseen_for_it() -> None:
    offers = desk(Source.PREDICTED)
    offers.began("r", FIRST, SCHEMAS, [])
    offers.foresaw(draft(FIRST, ("read", "{}", 0.7)))
    offers.ended("r")
    assert offers.began("s", FIRST, SCHEMAS, [])[0].texts == ()


def test_arguments_that_are_not_json_are_left_out() -> None:
    offers = desk(Source.PREDICTED)
    offers.foresaw(draft(FIRST, ("read", "[", 0.7), ("stop", "{}", 0.1)))
    assert of(offers.began("r", FIRST, SCHEMAS, []), Source.PREDICTED) == ["<call>stop {}</call>"]


def test_skeletons_are_those_of_the_tools_the_likeliest_last() -> None:
    offers = desk(Source.SKELETON)
    assert of(offers.began("r", FIRST, SCHEMAS, []), Source.SKELETON) == [
        "<call>stop {}</call>",
        '"}</call>',
        '<call>read {"path":"',
    ]
    assert of(offers.named("r", "read"), Source.SKELETON) == ['"}</call>', '<call>read {"path":"']


def test_calls_are_drafted_as_the_tenants_model_wrote_its_last_one() -> None:
    offers = desk(Source.PREDICTED, Source.PAST)
    offers.began("r", FIRST, SCHEMAS, [])
    wrote = Frame("[", ": ", "]", Style())
    offers.wrote("r", "read", '{"n": 1, "path": "a"}', encode('[read: {"n": 1, "path": "a"}]'), wrote)
    offers.ended("r")
    offers.foresaw(draft(SECOND, ("read", '{"path": "b", "n": 2}', 0.5)))
    found = offers.began("s", SECOND, SCHEMAS, [])
    assert of(found, Source.PREDICTED) == ['[read: {"n": 2, "path": "b"}]']
    assert of(found, Source.PAST) == ['[read: {"n": 1, "path": "a"}]']


def test_a_source_that_is_not_wanted_offers_nothing() -> None:
    assert {offer.source for offer in desk(Source.PAST).began("r", FIRST, SCHEMAS, [])} == {Source.PAST}
    assert desk(Source.HISTORY, Source.GRAMMAR).began("r", FIRST, SCHEMAS, []) == []


def test_what_was_offered_is_counted_by_source() -> None:
    offers = desk(Source.PREDICTED, Source.SKELETON)
    offers.foresaw(draft(FIRST, ("read", "{}", 0.7), ("stop", "{}", 0.1)))
    offers.began("r", FIRST, SCHEMAS, [])
    assert offers.texts == {Source.PREDICTED: 2, Source.SKELETON: 1}


def test_a_request_that_is_not_known_is_passed_over() -> None:
    offers = desk()
    assert offers.named("r", "read") == []
    assert offers.opened("r") == []
    offers.wrote("r", "read", "{}", [1], None)
    offers.ended("r")


def foreign(steps: Sequence[tuple[str, str, str]], make: Callable[[], Offers] = desk) -> list[str]:
    """Texts that a turn was offered and that are of another tenant, or foreseen for another session."""
    offers, found = make(), []
    for number, (tenant, session, act) in enumerate(steps):
        whose = (TenantId(tenant), SessionId(session))
        request = f"{tenant}{session}{number}"
        secret = json.dumps({"path": f"{tenant}:{session}"})
        if act == "foresee":
            told = offers.foresaw(draft(whose, ("read", secret, 0.5)))
        else:
            told = offers.began(request, whose, SCHEMAS, [])
            offers.wrote(request, "read", secret, encode(f"<call>read {secret}"), None)
            told = [*told, *offers.named(request, "read")]
        if act == "end":
            offers.ended(request)
        for offer in told:
            owner, where = offer.request[0], offer.request[:2]
            for text in (text for tokens in offer.texts for text in text_of(tokens) if ":" in text and "path" in text):
                whole = text.partition('"path":')[2].strip().partition("}")[0].strip('"')
                if whole and (
                    whole[0] != owner or (offer.source == Source.PREDICTED and whole != f"{where[0]}:{where[1]}")
                ):
                    found.append(text)
    return found


steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from(["foresee", "begin", "end"])), max_size=20
)


@given(steps)
def test_nothing_crosses_tenants_and_nothing_foreseen_crosses_sessions(acts: list[tuple[str, str, str]]) -> None:
    assert foreign(acts) == []


def test_a_desk_that_knows_one_tenant_only_is_caught() -> None:
    class Mixed(Offers):
        def began(self, request: str, whose: Key, *rest: object) -> list[Offer]:  # type: ignore[override]
            return super().began(request, (A, whose[1]), *rest)  # type: ignore[arg-type]

    assert foreign([("a", "1", "begin"), ("b", "1", "begin")], lambda: Mixed(encode, FRAME.write, tuple(Source)))


def test_many_texts_are_few_rows_and_the_best_stands_last() -> None:
    assert joined([[1, 2], [3], [4, 5]]) == [(4, 5, SEPARATOR, 3, SEPARATOR, 1, 2)]
    rows = joined([[number] * (MAX_TOKENS - 1) for number in range(9)])
    assert [row[0] for row in rows] == list(range(MAX_TEXTS))
    assert joined([]) == []
