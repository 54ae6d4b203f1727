"""What is remembered verbatim for each tenant, and how far that can be trusted."""

from collections import defaultdict, deque
from collections.abc import Iterable

from sglang_paste.calls import DEFAULT_TENANT
from sglang_paste.mine.calibrate import OFFERED, Outcomes, levels
from sglang_paste.mine.records import Session
from sglang_paste.mine.replay import moments
from sglang_paste.predict.levels import Level
from sglang_paste.predict.recall import Memory, Recalled, Recaller, Recollection, call_text, of_tool, raw_odds
from sglang_paste.predict.state import Outline

MAX_JUDGED = 4000
Remembered = tuple[dict[str, Recollection], dict[str, float], dict[str, Level]]


def remember(items: Iterable[tuple[Session, str]]) -> Remembered:
    """The recollection of each tenant, how often each grade of it was right, and how probabilities made of these turned
    out in the latest moments.

    Trust is counted as the sessions come, each against those before it. As long as a session shows no sign that its
    task is known, it counts only if the task is new: what a task's own sessions teach says nothing of one never seen.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    memories: dict[str, Memory] = defaultdict(Memory)
    tasks: set[str] = set()
    judged: deque[tuple[list[Recalled], Recaller, str]] = deque(maxlen=MAX_JUDGED)
    for session, task in items:
        memory = memories[session.tenant or DEFAULT_TENANT]
        recaller = Recaller(memory)
        made = []
        for state, calls in moments(session, Outline()):
            call = calls[0]
            sights = recaller.sights(state)
            if task not in tasks or recaller.standing[:2] != "00":
                text = call_text(call.name, call.arguments)
                recalled = recaller.recalled(sights)
                if recalled:
                    judged.append((recalled, recaller, text))
                for grade, followed in recalled:
                    for kind in (grade, of_tool(grade, followed[0][0])):
                        counts[kind][0] += followed[0][0] == text
                        counts[kind][1] += 1
            recaller.judge(sights, call.name, call.arguments)
            made.append((sights, call))
        for sights, call in made:
            memory.add(sights, call.name, call.arguments)
        tasks.add(task)
    trust: dict[str, float] = {}
    for grade, (hits, tries) in sorted(counts.items(), key=lambda item: (item[0].count(" "), item[0])):
        general = trust.get(grade.rpartition(" ")[0], 0.1)
        if tries > 2:
            trust[grade] = (hits + 3 * general) / (tries + 3)
    outcomes: Outcomes = {}
    for recalled, recaller, text in judged:
        for place, (offered, p) in enumerate(list(raw_odds(recalled, trust).items())[:OFFERED]):
            outcomes.setdefault(recaller.level_key(offered), []).append((p, not place, offered == text))
    return {tenant: memory.recollection() for tenant, memory in sorted(memories.items())}, trust, levels([outcomes])
