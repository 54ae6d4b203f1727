"""What the agent is asked to do, and which tools it is offered at each step."""

import msgspec

SYSTEM = (
    "You are a coding agent who looks after a small shop's code. Call one tool at a time and say in its "
    "description why you call it."
)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the agent. At step i it must call the tool `steps[i]`, any tool where that is empty; then it answers
    in words."""

    name: str
    request: str
    steps: tuple[str, ...]


TASKS = (
    Task(
        name="pricing",
        request="Customers say that the discount in the pricing module is wrong for an order of exactly 100.00. "
        "Run its tests, read the code, find examples with Decimal and build the app.",
        steps=("run_tests", "read_file", "find_examples", "build"),
    ),
    Task(
        name="inventory",
        request="The inventory module is slow. Find examples with heapq, read the code, run its tests, build the app.",
        steps=("find_examples", "read_file", "run_tests", "build"),
    ),
    Task(
        name="shipping",
        request="Check the shipping module before the release: run its tests, read the code and build the docs.",
        steps=("run_tests", "read_file", "build", ""),
    ),
    Task(
        name="invoices",
        request="Check the invoices module: run its tests, read the code, find examples with itertools, build docs.",
        steps=("run_tests", "read_file", "find_examples", "build"),
    ),
)
