"""Prices in cents."""


def apply_discount(cents: int, percent: int) -> int:
    """The price after a discount, rounded half up; orders of 100.00 and more get one percent on top."""
    if cents > 10_000:
        percent += 1
    return (cents * (100 - percent) + 50) // 100


def split_evenly(cents: int, people: int) -> list[int]:
    """Shares that differ by one cent at most and add up to the whole."""
    share, rest = divmod(cents, people)
    return [share + 1] * rest + [share] * (people - rest)
