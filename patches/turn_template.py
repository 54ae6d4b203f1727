"""A chat template rendered from where its last rendering of the same conversation can be trusted.

A template is a program that reads messages and writes text, nearly all of it in one loop over the messages. While that
loop runs it is noted what it has read of them: up to which message, and whether it asked how many there are. Rendered
again, the template runs as ever up to the loop. If the loop then sees the same variables as the last time, and the
messages it had read before one of its rounds are still there, then all it wrote up to that round is written again, and
the loop goes on from there. This holds for any template; one that looks ahead gains less, or nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jinja2 import Template, Undefined, nodes
from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Namespace

_MARK = "paste_loop"
_KEPT_ROUNDS = 8
# What is no part of the messages and may differ the next time, or holds state of its own.
_MOODY = frozenset({"lipsum", "strftime_now", "cycler", "joiner", "self", _MARK})
_SPECIAL = frozenset({"loop", "caller", "varargs", "kwargs"})
_ELSEWHERE = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport, nodes.Block)
_LEAVES = frozenset({str, int, bool, type(None)})


class Round(NamedTuple):
    """Before round `number` of the loop: how much it had written, the last message it had read, and its namespaces."""

    number: int
    size: int
    read: int
    namespaces: tuple[dict[str, Any] | None, ...]


class Rendering(NamedTuple):
    """What a rendering leaves for the next: its messages, which loop it was and from which message on, what that saw
    when it began, what it wrote, its last rounds, and how many rounds it had from the rendering before."""

    messages: Sequence[Any]
    loop: int
    start: int
    seen: list[Any]
    written: str
    rounds: list[Round]
    resumed: int


class Resumable:
    """A template that can be rendered from an earlier rendering."""

    def __init__(self, template: Template, source: str) -> None:
        """Raises ValueError for one that cannot."""
        environment = template.environment
        tree = environment.parse(source)
        _prepare(tree)
        tree.set_environment(environment)
        self._template = Template.from_code(environment, environment.compile(tree), environment.make_globals(None))
        self._template.root_render_func.__globals__["LoopContext"] = _loop_context

    def render(
        self, messages: Sequence[Any], last: Rendering | None, variables: dict[str, Any]
    ) -> tuple[str, Rendering | None]:
        """The text, and what it leaves. Raises what the template raises, and TypeError for what it does to the messages
        that can be done to lists only."""
        run = _Run(messages, last)
        context = self._template.new_context({**variables, "messages": run.view(), _MARK: run.enter})
        for piece in self._template.root_render_func(context):
            run.write(piece)
        return run.leave()


class Messages(Sequence[Any]):
    """Messages as a template sees them, all or some of them; what is read is noted. What can be done to lists but not
    to other sequences cannot be done to them: adding to them, comparing them, writing them as a whole."""

    def __init__(self, run: "_Run", places: range) -> None:
        self._run = run
        self.places = places

    def __len__(self) -> int:
        self._run.counts = True
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            if any(bound is not None and bound < 0 for bound in (place.start, place.stop, place.step)):
                self._run.counts = True
            return Messages(self._run, self.places[place])
        if not -1 < place < len(self.places):
            self._run.counts = True
        return self._run.read(self.places[place])

    def __iter__(self) -> Iterator[Any]:
        yield from map(self._run.read, self.places)
        self._run.counts = True

    def __reversed__(self) -> Iterator[Any]:
        self._run.counts = True
        return map(self._run.read, reversed(self.places))

    def __eq__(self, other: object) -> bool:
        raise TypeError("messages are compared one by one")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise TypeError("messages are written one by one")


class _Run:
    """One rendering. `counts` says whether the loop has asked, so far, how many messages there are."""

    def __init__(self, messages: Sequence[Any], last: Rendering | None) -> None:
        self.counts = False
        self._messages = messages
        self._last = last
        self._pieces: list[str] = []
        self._size = self._begins = 0
        self._read = -1
        self._loop: int | None = None
        self._start = self._resumed = 0
        self._values: tuple[Any, ...] = ()
        self._seen: list[Any] = []
        self._rounds: list[Round] = []

    def view(self) -> Messages:
        return Messages(self, range(len(self._messages)))

    def read(self, place: int) -> Any:
        self._read = max(self._read, place)
        return self._messages[place]

    def write(self, piece: str) -> None:
        self._pieces.append(piece)
        self._size += len(piece)

    def enter(self, iterable: Any, loop: int, *values: Any) -> Any:
        """A loop is about to begin that reads these variables; what it iterates over."""
        end = len(self._messages)
        places = iterable.places if type(iterable) is Messages else range(0)
        if self._loop is not None or places.step != 1 or places.stop != end or not places:
            return iterable
        self._loop, self._values, self._start = loop, values, places.start
        self._seen = [_seen(value, end) for value in values]
        self._begins = self._size
        trusted = self._trusted()
        self.counts, self._read = False, -1
        if trusted is not None and self._last is not None:
            self._resume(self._last, trusted)
        return _Loop(self, self._messages[self._start :], 0 if trusted is None else trusted.number)

    def round(self, number: int) -> None:
        """A round of the loop is about to begin, or would be if there were more messages."""
        if self.counts or (self._rounds and self._rounds[-1].number == number):
            return
        namespaces = tuple(dict(_attributes(each)) if type(each) is Namespace else None for each in self._values)
        if all(attributes is None or _is_plain(attributes) for attributes in namespaces):
            self._rounds.append(Round(number, self._size - self._begins, self._read, namespaces))

    def look(self, number: int) -> None:
        """The loop looks at the message of a round, or whether there is one."""
        if self._start + number < len(self._messages):
            self._read = max(self._read, self._start + number)
        else:
            self.counts = True

    def leave(self) -> tuple[str, Rendering | None]:
        text = "".join(self._pieces)
        if self._loop is None or not self._rounds:
            return text, None
        rounds, written = self._rounds[-_KEPT_ROUNDS:], text[self._begins :]
        return text, Rendering(self._messages, self._loop, self._start, self._seen, written, rounds, self._resumed)

    def _trusted(self) -> Round | None:
        last = self._last
        if last is None or (last.loop, last.start) != (self._loop, self._start) or not same(last.seen, self._seen):
            return None
        return next(self._fitting(last), None)

    def _fitting(self, last: Rendering) -> Iterator[Round]:
        """The rounds of the last rendering, latest first, for which all is still there that was read before them."""
        common = shared(last.messages, self._messages)
        for each in reversed(last.rounds):
            if max(each.read, self._start + each.number - 1) < common:
                yield each

    def _resume(self, last: Rendering, trusted: Round) -> None:
        self._read, self._resumed = trusted.read, trusted.number
        self._rounds = [each for each in last.rounds if each.number <= trusted.number]
        self.write(last.written[: trusted.size])
        for value, attributes in zip(self._values, trusted.namespaces, strict=True):
            if attributes is not None:
                _attributes(value).clear()
                _attributes(value).update(attributes)


class _Loop(NamedTuple):
    """What the loop over the messages iterates over, from a round on."""

    run: _Run
    elements: Sequence[Any]
    first: int


class _MessageLoop(LoopContext):
    """Jinja's `loop`, which tells the rendering what is looked at."""

    def __init__(self, loop: _Loop, undefined: type[Undefined]) -> None:
        super().__init__(loop.elements, undefined)
        self._run = loop.run
        if loop.first:
            self.index0 = loop.first - 1
            self._current = loop.elements[loop.first - 1]
            self._iterator = iter(loop.elements[loop.first :])

    @property
    def length(self) -> int:
        self._run.counts = True
        return super().length

    def changed(self, *value: Any) -> bool:
        self._run.counts = True
        return super().changed(*value)

    def _peek_next(self) -> Any:
        self._run.look(self.index0 + 1)
        return super()._peek_next()

    def __next__(self) -> tuple[Any, LoopContext]:
        self._run.round(self.index0 + 1)
        found = super().__next__()
        self._run.look(self.index0)
        return found


def _loop_context(iterable: Any, undefined: type[Undefined], *more: Any) -> LoopContext:
    return _MessageLoop(iterable, undefined) if type(iterable) is _Loop else LoopContext(iterable, undefined, *more)


def same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are written alike by any template: `True == 1`, but they are not the same."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _LEAVES:
        return bool(one == other)
    if kind is float:
        return repr(one) == repr(other)
    if kind in (list, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if not issubclass(kind, dict) or len(one) != len(other):
        return False
    for (name, value), (another, its) in zip(one.items(), other.items(), strict=True):
        if not (name is another or same(name, another)) or not (value is its or same(value, its)):
            return False
    return True


def shared(some: Sequence[Any], others: Sequence[Any]) -> int:
    """How many values two sequences have in common at their beginning."""
    for place, (one, other) in enumerate(zip(some, others, strict=False)):
        if not same(one, other):
            return place
    return min(len(some), len(others))


def _seen(value: Any, end: int) -> Any:
    """A variable as it can be compared with that of another rendering."""
    kind = type(value)
    if kind is Namespace:
        return {name: _seen(item, end) for name, item in _attributes(value).items()}
    if kind is Messages:
        places = value.places
        return "messages", places.start, places.step, places.stop == end or places.stop
    if isinstance(value, Undefined):
        return "undefined", value._undefined_name
    if kind is Macro:
        return "macro", value._func.__code__
    return value


def _attributes(namespace: Namespace) -> dict[str, Any]:
    attributes: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return attributes


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in _LEAVES or type(value) is float


def _prepare(tree: nodes.Template) -> None:
    """Have the loops that may be over the messages tell when they begin, and with what. Raises ValueError where there
    are none, or where they use what may differ the next time."""
    if any(tree.find_all(_ELSEWHERE)):
        raise ValueError("it uses other templates")
    if any(each.name == "random" for each in tree.find_all(nodes.Filter)):
        raise ValueError("it draws at random")
    macros = list(tree.find_all(nodes.Macro))
    loops = [loop for loop in _loops(tree.body) if not (loop.test or loop.else_ or loop.recursive)]
    sizes = [sum(1 for _ in loop.find_all(nodes.Node)) for loop in loops]
    for number, (loop, size) in enumerate(zip(loops, sizes, strict=True)):
        # A loop that only looks for something is smaller than the one that writes.
        if 2 * size < max(sizes):
            continue
        names = _names(loop.body, macros)
        if names & _MOODY:
            raise ValueError("its loop uses what may differ the next time")
        loads: list[nodes.Expr] = [nodes.Name(name, "load") for name in sorted(names - _SPECIAL)]
        loop.iter = nodes.Call(nodes.Name(_MARK, "load"), [loop.iter, nodes.Const(number), *loads], [], None, None)
        loop.body.insert(0, nodes.ExprStmt(nodes.Getattr(nodes.Name("loop", "load"), "index0", "load")))
        loop.set_lineno(loop.lineno)
    if not loops:
        raise ValueError("it has no loop over the messages")


def _loops(body: Iterable[nodes.Node]) -> Iterator[nodes.For]:
    """The loops whose text goes straight to the output."""
    for node in body:
        if isinstance(node, nodes.For):
            yield node
        elif isinstance(node, nodes.If):
            yield from _loops([*node.body, *node.elif_, *node.else_])


def _names(body: Iterable[nodes.Node], macros: Sequence[nodes.Macro]) -> set[str]:
    """The variables that statements read, and the macros they call."""
    found: set[str] = set()
    todo = list(body)
    while todo:
        node = todo.pop()
        new = {each.name for each in _all(node, nodes.Name) if each.ctx == "load"}
        new |= {each.name for each in _all(node, nodes.NSRef)}
        todo += [macro for macro in macros if macro.name in new - found]
        found |= new
    return found


def _all(node: nodes.Node, kind: Any) -> Iterator[Any]:
    if isinstance(node, kind):
        yield node
    yield from node.find_all(kind)
