"""What tests ask of a distribution of absences."""

from sglang_paste.schedule.absence import HORIZON, Absence


def median(absence: Absence) -> float:
    """The seconds in which half of those that come back are back."""
    low, high, half = 0.0, HORIZON, absence.returns(0.0) / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if absence.within(middle, 0.0) >= half else (middle, high)
    return high
