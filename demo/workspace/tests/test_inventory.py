"""Reservations over many shelves, against an exhaustive search on small ones."""

import itertools
import random
import unittest

from shop.inventory import reserve_stock


class Inventory(unittest.TestCase):
    def test_takes_what_is_wanted(self) -> None:
        draw = random.Random(1)
        for _ in range(120_000):
            shelves = [draw.randrange(50) for _ in range(24)]
            wanted = draw.randrange(sum(shelves) + 1)
            taken = reserve_stock(shelves, wanted)
            self.assertEqual(sum(taken), wanted)
            self.assertTrue(all(t <= s for t, s in zip(taken, shelves, strict=True)))

    def test_as_few_shelves_as_possible(self) -> None:
        draw = random.Random(2)
        for _ in range(250):
            shelves = [draw.randrange(9) for _ in range(10)]
            wanted = draw.randrange(sum(shelves) + 1)
            used = sum(1 for t in reserve_stock(shelves, wanted) if t)
            sizes = (len(c) for n in range(11) for c in itertools.combinations(shelves, n) if sum(c) >= wanted)
            self.assertEqual(used, next(sizes))
