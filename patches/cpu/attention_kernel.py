"""The compiled attention of single queries: decoding, and drafts that are verified as if each were decoded."""

import ctypes
from typing import Any

import torch

from sglang_paste.patches.cpu.attention_batch import Rows
from sglang_paste.patches.cpu.attention_math import attend, tree_mask

COUNTS = (1, 7, 30, 77, 512, 515, 1100)
NEAR = 2.0**-6  # some steps of bfloat16, for values of about one
DRAFTS = 5
WIDEST = 256

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS: list[Any] = [_POINTER, *[_COUNT] * 4, *[_POINTER] * 4, ctypes.c_float, _POINTER]


class SingleQueries:
    """Attends each query alone, with the bits of `attend`, or with `own_bits` and its numbers; a shape is compared
    with it before it is served."""

    def __init__(self, library: ctypes.CDLL, *, own_bits: bool = False) -> None:
        self._own_bits = own_bits
        self._attend: Any = library.paste_attend
        self._attend.restype, self._attend.argtypes = None, _ARGUMENTS
        self._known: dict[tuple[int, int, int, float, int], bool] = {}

    def serves(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> bool:
        """Whether `attend` takes these: a query [rows, heads, dim] and the pool's buffers [slots, kv_heads, dim]."""
        return (
            all(tensor.dtype is torch.bfloat16 and tensor.dim() == 3 for tensor in (query, keys, values))
            and keys.is_contiguous()
            and values.is_contiguous()
            and query.shape[2] == keys.shape[2] == values.shape[2]
            and self.gives_the_bits(query.shape[1], keys.shape[1], query.shape[2], scale)
        )

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: Rows, scale: float
    ) -> torch.Tensor:
        """Every query [rows, heads, dim] over the keys of its row."""
        query = query.contiguous()
        count, heads, dim = query.shape
        out = torch.empty_like(query)
        self._attend(
            query.data_ptr(),
            count,
            heads,
            keys.shape[1],
            dim,
            keys.data_ptr(),
            values.data_ptr(),
            rows.addresses.data_ptr(),
            rows.counts.data_ptr(),
            scale,
            out.data_ptr(),
        )
        return out

    def gives_the_bits(self, heads: int, kv_heads: int, dim: int, scale: float) -> bool:
        """Whether this shape is computed as `attend` does, or as near to it as rounding allows; found out once.

        Torch divides a single head among its threads, and adds up in another order then.
        """
        shape = heads, kv_heads, dim, scale
        known = *shape, torch.get_num_threads()
        if known not in self._known:
            fits = dim % 16 == 0 and dim <= WIDEST and heads % kv_heads == 0
            with torch.no_grad():
                compare = self._near if self._own_bits else self._same
                self._known[known] = fits and all(compare(count, *shape) for count in COUNTS)
        return self._known[known]

    def _near(self, count: int, heads: int, kv_heads: int, dim: int, scale: float) -> bool:
        random = torch.Generator().manual_seed(count)
        keys, values = (torch.randn(count, kv_heads, dim, generator=random).bfloat16() for _ in range(2))
        query = torch.randn(1, heads, dim, generator=random).bfloat16()
        found = self.attend(query, keys, values, Rows.over([torch.arange(count, dtype=torch.int32)]), scale)
        wanted = attend(query.float(), keys.float(), values.float(), scale, causal=True)
        return bool(torch.allclose(found.float(), wanted, rtol=NEAR, atol=NEAR))

    def _same(self, count: int, heads: int, kv_heads: int, dim: int, scale: float) -> bool:
        random = torch.Generator().manual_seed(count)
        slots = torch.randperm(count + 3, generator=random).int()[:count]
        keys, some = (torch.randn(count + 3, kv_heads, dim, generator=random).bfloat16() for _ in range(2))
        # Values of many sizes that cancel where all weigh the same, so that rounding errors are left.
        sizes = torch.randint(0, 24, (count + 3, 1, 1), generator=random).exp2()
        opposite = torch.arange(count + 3) // 2 * 2
        signs = torch.where(torch.arange(count + 3) % 2 == 0, 1, -1).view(-1, 1, 1)
        order = torch.randperm(count + 3, generator=random)
        values = ((some * sizes)[opposite] * signs)[order].bfloat16()
        for query in (torch.zeros(1, heads, dim), torch.randn(1, heads, dim, generator=random)):
            rows = query.bfloat16()
            wanted = attend(rows, keys[slots], values[slots], scale, causal=True)
            if not torch.equal(self.attend(rows, keys, values, Rows.over([slots]), scale), wanted):
                return False
        return True


def rows_alike(heads: int, kv_heads: int, dim: int, scale: float) -> bool:
    """Whether torch gives a draft among others the bits of the same token decoded alone."""
    random = torch.Generator().manual_seed(dim)
    chain = torch.ones(DRAFTS, DRAFTS, dtype=torch.bool).tril()
    for count in COUNTS[2:]:
        keys, values = (torch.randn(count, kv_heads, dim, generator=random).bfloat16() for _ in range(2))
        query = torch.randn(DRAFTS, heads, dim, generator=random).bfloat16()
        mask = tree_mask(chain, count - DRAFTS, None, query.dtype)
        among = attend(query, keys, values, scale, causal=True, mask=mask)
        for row in range(DRAFTS):
            mine = slice(count - DRAFTS + row + 1)
            if not torch.equal(
                among[row : row + 1], attend(query[row : row + 1], keys[mine], values[mine], scale, causal=True)
            ):
                return False
    return True
