"""Mining: recorded sessions in, patterns out."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from hashlib import sha256
from zlib import crc32

import numpy as np

from sglang_paste.mine.fit import Choices, logit, softmax_rows
from sglang_paste.mine.records import Session
from sglang_paste.mine.replay import moments
from sglang_paste.predict import choose, slots, words
from sglang_paste.predict.patterns import Argument, Contexts, Patterns, Shape
from sglang_paste.predict.secret import holds_secret, is_secret_name
from sglang_paste.predict.state import LAST, SAID, TASK, USER, State, text_of
from sglang_paste.predict.ways import Way, build, explain, form_of

MAX_WAYS = 14
MAX_CONSTANTS = 40
MAX_CHOICES = 2500
ArgumentKey = tuple[str, str]


class Miner:
    """Takes sessions one by one, gives patterns."""

    def __init__(self, k: int = 5) -> None:
        self.k = k
        self.sessions: list[Session] = []

    def add(self, session: Session) -> None:
        self.sessions.append(session)

    def finish(self, progress: Callable[[float], None] | None = None) -> Patterns:
        groups = group_tasks(self.sessions)
        found = _Survey(self.k)
        for session, group in zip(self.sessions, groups, strict=True):
            found.session(session, group)
        return found.patterns(self.sessions, groups)


def group_tasks(sessions: list[Session]) -> list[str]:
    """For each session the name of its group: sessions are of one group when their task or its text is the same."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    names = []
    for session in sessions:
        task = f"task {session.source} {session.task_id}"
        names.append(task)
        text = task_text(session)
        if text:
            ours, other = find(task), find(f"text {sha256(text.encode()).hexdigest()}")
            if ours != other:
                parent[max(ours, other)] = min(ours, other)
    return [find(name) for name in names]


def task_text(session: Session) -> str:
    """The text of the first user turn, in small letters, white space as one blank."""
    for turn in session.turns:
        if turn.role == "user" and turn.content:
            return re.sub(r"\s+", " ", turn.content.lower()).strip()
    return ""


class _Survey:
    def __init__(self, k: int) -> None:
        self.k = k
        self.ways: dict[ArgumentKey, dict[Way, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.way_hits: dict[ArgumentKey, Counter[Way]] = defaultdict(Counter)
        self.constants: dict[ArgumentKey, dict[tuple[str, str], set[str]]] = defaultdict(lambda: defaultdict(set))
        self.shapes: dict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
        self.words: dict[str, set[str]] = defaultdict(set)
        self.together: dict[str, set[str]] = defaultdict(set)
        self.cover: dict[ArgumentKey, list[frozenset[Way]]] = defaultdict(list)

    def session(self, session: Session, group: str) -> None:
        tools = {call.name for turn in session.turns for call in turn.tool_calls}
        for tool in tools:
            self.together[tool] |= tools
        for state, calls in moments(session):
            call = calls[0]
            shape = (call.name, tuple(sorted(call.arguments)))
            self.shapes[shape].add(group)
            for name, value in call.arguments.items():
                key = (call.name, name)
                ways = frozenset(explain(state, value))
                forms = [Way(f"@{call.name}", name, "a")]
                text = text_of(value)
                for way in forms:
                    if text in choose.listed(way, state):
                        ways |= {way}
                self.cover[key].append(ways)
                for way in ways:
                    self.ways[key][way].add(group)
                if len(text) <= 300:
                    self.constants[key][text, form_of(value)].add(group)
            for word in features(state):
                if len(self.words[word]) < self.k:
                    self.words[word].add(group)

    def patterns(self, sessions: list[Session], groups: list[str]) -> Patterns:
        k = self.k
        shapes = sorted(shape for shape, seen in self.shapes.items() if len(seen) >= min(k, 2))
        shape_ids = {shape: number for number, shape in enumerate(shapes)}
        vocabulary = {w: i for i, w in enumerate(sorted(w for w, seen in self.words.items() if len(seen) >= k))}
        models: dict[ArgumentKey, Argument] = {}
        for key in sorted({(tool, name) for tool, names in shapes for name in names}):
            ways = self._pick(key)
            constants = sorted(
                (
                    (-len(seen), value)
                    for value, seen in self.constants[key].items()
                    if len(seen) >= k and not is_secret_name(key[1]) and not holds_secret(build(*value))
                )
            )[:MAX_CONSTANTS]
            models[key] = Argument(key[0], key[1], ways, [value for _, value in constants], b"", b"")
        choices: dict[ArgumentKey, Choices] = {key: Choices() for key in models}
        examples = []
        tool_shapes: dict[str, list[int]] = defaultdict(list)
        for (tool, _), number in shape_ids.items():
            tool_shapes[tool].append(number)
        for session, _group in zip(sessions, groups, strict=True):
            for state, calls in moments(session):
                call = calls[0]
                shape = (call.name, tuple(sorted(call.arguments)))
                if shape in shape_ids:
                    allowed = self.allowed(state, tool_shapes)
                    rows = np.asarray([vocabulary[w] for w in features(state) if w in vocabulary])
                    if shape_ids[shape] in allowed:
                        examples.append((rows, np.asarray(allowed), allowed.index(shape_ids[shape])))
                for name, value in call.arguments.items():
                    key = (call.name, name)
                    if key not in models or len(choices[key]) >= MAX_CHOICES:
                        continue
                    model = models[key]
                    context = slots.Context(state, *key)
                    found = choose.gather(model.ways, model.constants, state, context)
                    none = choose.width(len(model.ways), len(model.constants))
                    marks = [*found.values(), [none + s for s in choose.none_slots(len(found), state, context)]]
                    wanted = {(text_of(value), form_of(value))}
                    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
                        wanted.add((value[0], "l"))
                    right = [i for i, v in enumerate(found) if v in wanted]
                    choices[key].add(marks, right[0] if right else len(found))
        for key, model in models.items():
            size = choose.width(len(model.ways), len(model.constants))
            weights = logit(choices[key], size + choose.NONE_BLOCK)
            model.weights = weights[:size].tobytes()
            model.none = weights[size:].tobytes()
        matrix = softmax_rows(examples, len(vocabulary), len(shapes), 4)
        order = sorted(vocabulary, key=lambda w: crc32(w.encode()))
        return Patterns(
            k=k,
            shapes=[Shape(tool, names) for tool, names in shapes],
            contexts=Contexts(
                [crc32(w.encode()) for w in order], matrix[[vocabulary[w] for w in order]].astype("<f2").tobytes()
            ),
            arguments=list(models.values()),
            calibration=[],
            together={tool: sorted(others) for tool, others in self.together.items()},
        )

    def allowed(self, state: State, tool_shapes: dict[str, list[int]]) -> list[int]:
        tools: set[str] | None = None
        for call in state.calls:
            others = self.together.get(call.tool)
            if others is not None:
                tools = set(others) if tools is None else tools & others
        if tools is None:
            tools = set(tool_shapes)
        return [number for tool in sorted(tools) for number in tool_shapes.get(tool, ())]

    def _pick(self, key: ArgumentKey) -> list[Way]:
        """The ways that together explain most, each adding to the ones before it."""
        rows = self.cover[key][:3000]
        counts = Counter(way for ways in rows for way in ways)
        pool = [way for way, n in counts.most_common(80) if len(self.ways[key][way]) >= min(self.k, 3)]
        picked: list[Way] = []
        left = rows
        while pool and len(picked) < MAX_WAYS:
            gain = Counter(way for ways in left for way in ways)
            best = max(pool, key=lambda way: (gain[way], counts[way], way.source, way.kind))
            if gain[best] < max(2, len(rows) // 300):
                break
            picked.append(best)
            pool.remove(best)
            left = [ways for ways in left if best not in ways]
        for way in sorted(pool, key=lambda way: (-counts[way], way.source, way.kind)):
            if len(picked) >= MAX_WAYS:
                break
            picked.append(way)
        return picked


def features(state: State) -> list[str]:
    """All features of the moment, for the tool model."""
    found = list(words.of_calls(state))
    for source in (TASK, USER, SAID, LAST):
        text = state.texts.get(source)
        if text:
            found.extend(words.of_text(source, text))
    return found
