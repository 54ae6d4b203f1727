"""What is learned of one context: which tool follows, with which arguments, made how, how sure, and how soon."""

from collections.abc import Collection, Iterator
from typing import Annotated

import msgspec

from sglang_paste.predict.learn import NonNegative, Samples, Share
from sglang_paste.predict.program import Constant, History, Name, Program

MAX_TOOLS = 12
MAX_FORMS = 3
MAX_ARGUMENTS = 12
MAX_WAYS = 5
MAX_FORGET = 50.0


class Way(msgspec.Struct):
    """One program for an argument, and how often it was right."""

    program: Program
    right: Share


class Slot(msgspec.Struct):
    """One argument: the programs that may make it, those that were right most often first, and how often it was
    seen (which forgets as the shares do)."""

    seen: NonNegative = 0.0
    ways: Annotated[list[Way], msgspec.Meta(max_length=MAX_WAYS)] = msgspec.field(default_factory=list)

    def best(self, history: History) -> str | None:
        """The text made by the first program that can be built here."""
        for way in self.ways:
            text = history.build(way.program)
            if text is not None:
                return text
        return None

    def learn(self, name: str, text: str, history: History) -> None:
        """Judge the known programs by the value the argument really had, and take in those that explain it."""
        for way in self.ways:
            built = history.build(way.program)
            if built is not None or isinstance(way.program, Constant):
                way.right.update(built == text)
        known = {way.program for way in self.ways}
        for rank, program in enumerate(history.explain(name, text)):
            if program not in known:
                self.ways.append(Way(program, Share(1.5 - 0.1 * min(rank, 9), 0.5 + self.seen)))
        self.ways.sort(key=lambda way: -way.right.probability)
        del self.ways[MAX_WAYS:]
        self.seen = min(self.seen + 1.0, MAX_FORGET)


class Form(msgspec.Struct):
    """Calls of one tool with the same set of argument names: how often it is this set, and all values are right."""

    slots: Annotated[dict[Name, Slot], msgspec.Meta(max_length=MAX_ARGUMENTS)]
    chosen: Share = msgspec.field(default_factory=lambda: Share(1.0, 0.5))
    exact: Share = msgspec.field(default_factory=lambda: Share(0.75, 0.5))

    def build(self, history: History) -> dict[str, str] | None:
        """The canonical text of every argument, or None where one cannot be made here."""
        built = {}
        for name, slot in self.slots.items():
            text = slot.best(history)
            if text is None:
                return None
            built[name] = text
        return built


class Follow(msgspec.Struct):
    """One tool as the successor: how often it is this tool, and the forms its calls take."""

    next: Share
    forms: Annotated[list[Form], msgspec.Meta(max_length=MAX_FORMS)] = msgspec.field(default_factory=list)

    def learn(self, arguments: dict[str, str], history: History, inert: Collection[str]) -> None:
        """Judge what would have been predicted here, then learn how the arguments can be made."""
        names = arguments.keys()
        form = next((form for form in self.forms if form.slots.keys() == names), None)
        for other in self.forms:
            other.chosen.update(other is form)
        if form is None:
            form = Form({name: Slot() for name in arguments}, Share(1.0, 0.5 + len(self.forms)))
            self._add(form)
        else:
            built = form.build(history)
            if built is not None:
                form.exact.update(_vital(built, inert) == _vital(arguments, inert))
        for name, text in arguments.items():
            form.slots[name].learn(name, text, history)

    def _add(self, form: Form) -> None:
        if len(self.forms) == MAX_FORMS:
            self.forms.remove(min(self.forms, key=lambda known: known.chosen.probability))
        self.forms.append(form)


class Context(msgspec.Struct):
    """What followed in one context. `visits` forgets as the shares do."""

    visits: NonNegative = 0.0
    follows: Annotated[dict[Name, Follow], msgspec.Meta(max_length=MAX_TOOLS)] = msgspec.field(default_factory=dict)
    delay: Samples = msgspec.field(default_factory=Samples)

    def learn(
        self, tool: str | None, arguments: dict[str, str] | None, history: History, inert: Collection[str]
    ) -> None:
        """Learn that `tool` followed here, or with None that the session asked for no tool.

        Arguments that are not worth predicting are None."""
        for name, follow in self.follows.items():
            follow.next.update(name == tool)
        if tool is not None and tool not in self.follows:
            self._add(tool)
        if tool is not None and arguments is not None and len(arguments) <= MAX_ARGUMENTS:
            self.follows[tool].learn(arguments, history, inert)
        self.visits = min(self.visits + 1.0, MAX_FORGET)

    def offers(self, history: History, tool: str | None) -> Iterator[tuple[str, dict[str, str], float]]:
        """Calls (tool, argument texts, probability) that may follow; with `tool`, given that it is this one;
        the surest first."""
        found = []
        for name, follow in self.follows.items():
            if tool is None or name == tool:
                likely = follow.next.probability if tool is None else 1.0
                found += [
                    (likely * form.chosen.probability * form.exact.probability, name, form) for form in follow.forms
                ]
        for probability, name, form in sorted(found, key=lambda one: -one[0]):
            built = form.build(history)
            if built is not None:
                yield name, built, probability

    def _add(self, tool: str) -> None:
        if len(self.follows) == MAX_TOOLS:
            del self.follows[min(self.follows, key=lambda name: self.follows[name].next.probability)]
        self.follows[tool] = Follow(Share(1.0, 0.5 + self.visits))


def _vital(arguments: dict[str, str], inert: Collection[str]) -> dict[str, str]:
    return {name: text for name, text in arguments.items() if name not in inert} if inert else arguments
