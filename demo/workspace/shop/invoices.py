"""Invoice numbers with a check digit."""


def check_digit(number: int) -> int:
    """The digit that makes the weighted sum of all digits a multiple of ten (Luhn)."""
    total = 0
    for place, digit in enumerate(reversed(str(number))):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return -total % 10


def invoice_number(serial: int) -> str:
    """A number that a customer can read out over the phone."""
    return f"{serial:08d}-{check_digit(serial)}"
