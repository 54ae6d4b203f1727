"""Every price up to 150.00 under every discount, against exact decimal arithmetic."""

import unittest
from decimal import ROUND_HALF_UP, Decimal

from shop.pricing import apply_discount, split_evenly


class Pricing(unittest.TestCase):
    def test_discount_is_exact(self) -> None:
        for percent in range(100):
            factor = Decimal(100 - percent) / 100
            for cents in range(10_000):
                exact = int((cents * factor).quantize(Decimal(1), ROUND_HALF_UP))
                self.assertEqual(apply_discount(cents, percent), exact)

    def test_large_orders_get_one_percent_more(self) -> None:
        self.assertEqual(apply_discount(10_000, 10), 8_900)

    def test_shares_add_up(self) -> None:
        for cents in range(0, 60_000, 3):
            shares = split_evenly(cents, 7)
            self.assertEqual(sum(shares), cents)
            self.assertLessEqual(max(shares) - min(shares), 1)
