"""Sets of tools as bits are what sets of names are."""

from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.predict.patterns import Shape
from sglang_paste.predict.toolset import Toolset

TOOLS = ("ask", "book", "call", "drop", "edit")
names = st.sampled_from((*TOOLS, "never seen"))


def narrowed(together: dict[str, list[str]], tools: set[str], called: list[str]) -> set[str]:
    for name in called:
        if name in together and tools & set(together[name]):
            tools = tools & set(together[name])
    return tools


@given(
    st.dictionaries(st.sampled_from(TOOLS), st.lists(st.sampled_from(TOOLS)), max_size=5),
    st.lists(st.sampled_from(TOOLS), max_size=6),
    st.none() | st.sets(names),
    st.lists(names, max_size=4),
)
def test_what_goes_together(
    together: dict[str, list[str]], of_shapes: list[str], offered: set[str] | None, called: list[str]
) -> None:
    shapes = [Shape(tool, ()) for tool in of_shapes]
    tools = Toolset(shapes, together)
    known = set(of_shapes).union(together, *together.values())
    expected = narrowed(together, set(of_shapes) if offered is None else offered & known, called)
    found = tools.narrowed(tools.of(offered), called)
    assert tools.names(found) == expected
    in_order = sorted(range(len(shapes)), key=lambda number: (shapes[number].tool, number))
    assert tools.shapes[found].tolist() == [number for number in in_order if shapes[number].tool in expected]
