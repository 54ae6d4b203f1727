"""Whether ours played what stock played."""

from collections.abc import Iterable

from bench.replay.client import Diverged
from bench.replay.records import STOCK, Place, Row, Task


def require_as_stock(rows: Iterable[Row]) -> None:
    """Raises Diverged where a session has a row on stock and none on ours. SGLang's own API loses some calls; sessions
    with such are left out on all sides."""
    played: dict[Place, set[str]] = {}
    for row in rows:
        names = played.setdefault(row.place, set())
        if isinstance(row, Task):
            names.add(row.session)
    for place, names in played.items():
        stock = next((found for other, found in played.items() if _is_beside(other, place)), set())
        missing = sorted(stock - names)
        if missing and place.run not in STOCK:
            raise Diverged(f"{missing[0]} was answered as recorded on stock, and not in run {place.run}")


def _is_beside(stock: Place, place: Place) -> bool:
    same = (stock.setting, stock.repetition) == (place.setting, place.repetition)
    return stock.run == "A" and same
