"""Sessions that nobody recorded, for a replay without any: customer service, coding and search, with habits.

They are easier to foresee than people's: of a task, two sessions take nearly the same way, and most arguments stand in
what a tool returned before.
"""

import random
from collections.abc import Iterator
from typing import Any

from sglang_paste.mine.records import Call, Result, Session, Turn

_NAMES = ("Ada", "Noor", "Mateo", "Lin", "Olu", "Petra", "Yara", "Ivan", "Sena", "Tom")
_FAMILIES = ("Berg", "Okafor", "Silva", "Chen", "Haddad", "Novak", "Moreau", "Ito", "Khan", "Lund")
_GOODS = ("lamp", "keyboard", "bottle", "backpack", "headphones", "mug", "desk", "tent", "jacket", "camera")
_MODULES = ("pricing", "inventory", "shipping", "invoices", "accounts", "search", "reports", "mail")
_VERBS = ("round", "merge", "parse", "total", "sort", "filter", "format", "check")
_PLACES = ("Lisbon", "Turin", "Oslo", "Quito", "Accra", "Kyoto", "Graz", "Perth", "Leeds", "Tartu")
_SYSTEM = "You are an agent. Call one tool at a time, say shortly what you do, and answer when you know enough.\n"
_POLICY = "\n".join(f"Rule {n}: look at everything a tool tells you before you change anything." for n in range(40))


def sessions(count: int, seed: int = 0) -> list[Session]:
    """So many sessions of each kind, two of each task."""
    return [make(number, seed) for number in range(count) for make in (_service, _coding, _search)]


class _Writer:
    """A session as it is written."""

    def __init__(self, kind: str, number: int, seed: int) -> None:
        self.task = f"{kind}/{seed}/{number // 2}"
        # What the task is about, and what this session makes of it.
        self.about, self.own = random.Random(self.task), random.Random(f"{kind}/{seed}/{number}")
        self._kind, self._number = kind, number
        self._turns: list[Turn] = [Turn("system", f"{_SYSTEM}{_POLICY}")]

    def user(self, text: str) -> None:
        self._turns.append(Turn("user", text))

    def call(self, said: str, tool: str, arguments: dict[str, Any], result: str) -> None:
        self._turns.append(Turn("assistant", said, (Call(tool, arguments),)))
        self._turns.append(Turn("tool", tool_results=(Result(tool, result),)))

    def session(self, answer: str) -> Session:
        turns = (*self._turns, Turn("assistant", answer))
        return Session(self._kind, str(self._number), self.task, turns)


def _service(number: int, seed: int) -> Session:
    write = _Writer("customer service", number, seed)
    about = write.about
    name, family, place = about.choice(_NAMES), about.choice(_FAMILIES), str(about.randrange(10_000, 99_999))
    user = f"{name}_{family}_{about.randrange(1000, 9999)}".lower()
    orders = [f"#W{about.randrange(10**6, 10**7)}" for _ in range(about.randrange(1, 4))]
    product, item = str(about.randrange(10**9, 10**10)), str(about.randrange(10**9, 10**10))
    goods = about.choice(_GOODS)
    write.user(f"I am {name} {family}, zip code {place}. The {goods} I bought does not work and I want it exchanged.")
    who = {"first_name": name, "last_name": family, "zip": place}
    write.call("I look you up first.", "find_user_id_by_name_zip", who, user)
    details = f'{{"user_id": "{user}", "orders": {orders}, "zip": "{place}", "payment": "credit_card_{number}"}}'
    write.call("", "get_user_details", {"user_id": user}, details.replace("'", '"'))
    for order in orders:
        item_line = f'{{"name": "{goods}", "product_id": "{product}", "item_id": "{item}"}}'
        lines = f'{{"order_id": "{order}", "user_id": "{user}", "items": [{item_line}], "status": "delivered"}}'
        write.call("I look at the order.", "get_order_details", {"order_id": order}, lines)
    variants = ", ".join(f'"{about.randrange(10**9, 10**10)}": {{"available": true}}' for _ in range(6))
    write.call("", "get_product_details", {"product_id": product}, f'{{"product_id": "{product}", {variants}}}')
    if write.own.random() < 0.3:
        write.call("", "calculate", {"expression": f"{about.randrange(500)} - {about.randrange(100)}"}, "7")
    change = {"order_id": orders[-1], "item_ids": [item], "new_item_ids": [variants[1:11]]}
    write.call("I exchange it now.", "exchange_delivered_order_items", change, f'{{"status": "exchange of {item}"}}')
    return write.session(f"The {goods} will be exchanged; you will get an email with what to do next.")


def _coding(number: int, seed: int) -> Session:
    write = _Writer("coding", number, seed)
    about = write.about
    module, verb = about.choice(_MODULES), about.choice(_VERBS)
    function, path = f"{verb}_{about.choice(_GOODS)}", f"src/shop/{module}.py"
    test = f"tests/test_{module}.py"
    write.user(f"{function} gives a wrong result for an empty list. Find out why and mend it.")
    found = f"{path}:{about.randrange(200)}:def {function}(rows):\n{test}:{about.randrange(90)}:    {function}([])"
    write.call(f"I look for {function}.", "grep", {"pattern": f"{function}", "path": "."}, found)
    write.call("", "read_file", {"path": path}, _source(about, function))
    if write.own.random() < 0.7:
        write.call("And its tests.", "read_file", {"path": test}, _source(about, f"test_{function}"))
    failed = f"FAILED {test}::test_{function} - ValueError: empty\n1 failed, {about.randrange(60)} passed"
    write.call("I run the tests as they are.", "run_tests", {"target": test}, failed)
    head = f"def {function}(rows):"
    edit = {"path": path, "old": head, "new": f"{head}\n    if not rows:\n        return 0"}
    write.call("An empty list has no maximum, so I return early.", "apply_patch", edit, f"{path} was changed")
    write.call("I run them again.", "run_tests", {"target": test}, f"{about.randrange(60)} passed")
    return write.session(f"{function} returns 0 for an empty list now, and the tests pass.")


def _search(number: int, seed: int) -> Session:
    write = _Writer("search", number, seed)
    about = write.about
    place, name = about.choice(_PLACES), f"{about.choice(_NAMES)} {about.choice(_FAMILIES)}"
    write.user(f"In which year was the founder of the oldest school in {place} born?")
    query = f"oldest school in {place}"
    urls = [f"https://example.org/{place.lower()}/{about.randrange(10**5)}" for _ in range(3)]
    hits = "\n".join(f"[{rank}] {url} The oldest schools in {place}" for rank, url in enumerate(urls, 1))
    write.call(f"I search for the {query}.", "web_search", {"query": query}, hits)
    page = f"# Schools in {place}\n" + "Its history is long. " * 30 + f"\nIt was founded by {name} in 1871."
    for url in urls[: write.own.randrange(1, 3)]:
        write.call("I open what was found.", "visit", {"url": url}, page)
    year = about.randrange(1790, 1850)
    write.call("Now the founder.", "web_search", {"query": f"{name} born"}, f"[1] {name} (born {year} in {place})")
    return write.session(f"{name}, who founded it, was born in {year}.")


def _source(about: random.Random, function: str) -> str:
    return "\n".join(_lines(about, function))


def _lines(about: random.Random, function: str) -> Iterator[str]:
    for number in range(about.randrange(20, 60)):
        yield f"    value_{number} = rows[{about.randrange(100)}] + {about.randrange(1000)}"
    yield f"def {function}(rows):\n    return max(rows)"
