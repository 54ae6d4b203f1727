"""Stock on shelves of limited size."""


def reserve_stock(shelves: list[int], wanted: int) -> list[int]:
    """What to take from each shelf, fullest first, so that `wanted` pieces come from as few as possible."""
    taken = [0] * len(shelves)
    for index in sorted(range(len(shelves)), key=lambda i: -shelves[i]):
        taken[index] = min(shelves[index], wanted)
        wanted -= taken[index]
    return taken
