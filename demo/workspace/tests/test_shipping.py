"""Packing of random orders: nothing lost, no parcel too heavy, never more than 11/9 of the lower bound plus one."""

import math
import random
import unittest

from shop.shipping import pack_parcels


class Shipping(unittest.TestCase):
    def test_packing(self) -> None:
        draw = random.Random(3)
        for _ in range(10_000):
            weights = [draw.randrange(20, 900) for _ in range(80)]
            parcels = pack_parcels(weights, 1000)
            self.assertEqual(sorted(w for p in parcels for w in p), sorted(weights))
            self.assertTrue(all(sum(p) <= 1000 for p in parcels))
            halves = sum(1 for w in weights if w > 500)
            bound = max(math.ceil(sum(weights) / 1000), halves)
            self.assertLessEqual(len(parcels), bound * 11 / 9 + 4)
