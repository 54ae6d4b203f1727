"""The check digit catches every single wrong digit."""

import unittest

from shop.invoices import check_digit, invoice_number


class Invoices(unittest.TestCase):
    def test_every_single_error_is_caught(self) -> None:
        for serial in range(10_000_000, 10_012_000):
            digits, right = str(serial), check_digit(serial)
            for place in range(8):
                for wrong in "0123456789":
                    if wrong != digits[place]:
                        changed = int(digits[:place] + wrong + digits[place + 1 :])
                        self.assertNotEqual(check_digit(changed), right)

    def test_format(self) -> None:
        self.assertEqual(invoice_number(42), "00000042-2")
