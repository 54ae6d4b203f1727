"""Every function of the sgl_kernel stand-in leaves what SGLang's own Triton kernel leaves."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
import sgl_kernel
import torch
from hypothesis import given, settings
from sgl_kernel.speculative import reconstruct_indices_from_tree_mask
from torch import Tensor
from triton_kernels import Arguments, Interpreter

pytestmark = pytest.mark.host

Function = Callable[..., object]
POISON = -77


@dataclass(frozen=True)
class Case:
    """A function, a way to draw its arguments, and a wrong version that must be told apart."""

    draw: Callable[[random.Random], Arguments]
    broken: Function
    name: str
    ours: Function


def case(draw: Callable[[random.Random], Arguments], broken: Function, ours: Function, name: str = "") -> Case:
    return Case(draw, broken, name or ours.__name__, ours)


@pytest.fixture(scope="module")
def triton() -> Iterator[Interpreter]:
    interpreter = Interpreter()
    yield interpreter
    interpreter.close()


def after(function: Function, arguments: Arguments) -> Arguments:
    """What a call leaves: its result and every argument, the given ones untouched."""
    copies = [argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments]
    return [function(*copies), *copies]


def same(ours: Arguments, theirs: Arguments) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def ints(values: list[Any], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def poisoned(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.full(shape, POISON, dtype=dtype)


# -- the table of cache slots


def draw_spans(rng: random.Random) -> Arguments:
    batch, height, width = rng.randint(1, 5), 8, 100
    starts = [rng.randint(0, width) for _ in range(batch)]
    ends = [rng.randint(start, min(width, start + rng.choice([0, 1, 40, 99]))) for start in starts]
    table = torch.arange(height * width, dtype=torch.int32).view(height, width)
    rows = rng.sample(range(height), batch)
    slots = torch.arange(sum(ends) - sum(starts) + rng.randint(0, 3)) + 5000
    return [ints(rows), table, ints(starts, torch.int32), ints(ends), slots, width]


def assign_without_advance(
    rows: Tensor, table: Tensor, starts: Tensor, ends: Tensor, slots: Tensor, width: int
) -> None:
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        table[row, start:end] = slots[: end - start]


def read_without_advance(rows: Tensor, table: Tensor, starts: Tensor, ends: Tensor, slots: Tensor, width: int) -> None:
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        slots[: end - start] = table[row, start:end]


def draw_drafts(rng: random.Random) -> Arguments:
    batch, topk, steps = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 50)
    table = torch.arange(8 * 200, dtype=torch.int32).view(8, 200)
    lengths = ints([rng.randint(0, 50) for _ in range(batch)])
    return [ints(rng.sample(range(8), batch)), table, lengths, poisoned(batch * topk * steps), 200, topk, steps]


def drafts_from_zero(
    rows: Tensor, table: Tensor, lengths: Tensor, slots: Tensor, width: int, topk: int, steps: int
) -> None:
    sgl_kernel.assign_draft_cache_locs_contiguous_cpu(rows, table, lengths * 0, slots, width, topk, steps)


def draw_rows(rng: random.Random) -> Arguments:
    rows, moved = 12, rng.randint(1, 6)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    buffers = [torch.randint(0, 255, (rows, w), generator=generator, dtype=torch.uint8) for w in (7, 48, 130)]
    return [*buffers, ints(rng.sample(range(rows), moved)), ints([rng.randrange(rows) for _ in range(moved)])]


def copy_rows(*arguments: Tensor) -> None:
    *buffers, target, source = arguments
    pointers = torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.uint64)
    strides = ints([buffer.shape[1] for buffer in buffers])
    sgl_kernel.copy_all_layer_kv_cache_cpu(pointers, strides, target, source)


def copy_in_turn(*arguments: Tensor) -> None:
    *buffers, target, source = arguments
    for buffer in buffers:
        for to, at in zip(target.tolist(), source.tolist(), strict=True):
            buffer[to] = buffer[at].clone()


# -- sampling with a seed


def draw_seeds(rng: random.Random) -> Arguments:
    rows = rng.randint(1, 3)
    seeds = torch.tensor([rng.randrange(2**63) for _ in range(rows)]).to(torch.uint64)
    columns = torch.arange(rng.choice([1, 63, 1500]))
    return [seeds, ints([rng.randrange(2**31) for _ in range(rows)]), columns]


def hash_of_low_half(seeds: Tensor, positions: Tensor, columns: Tensor) -> Tensor:
    low = (seeds.view(torch.int64) & 0xFFFFFFFF).view(torch.uint64)
    return sgl_kernel.murmur_hash32_cpu(low, positions, columns)


# -- trees of drafts


def random_parents(rng: random.Random, nodes: int) -> list[int]:
    return [-1, *(rng.randrange(node) for node in range(1, nodes))]


def links(parents: list[int]) -> tuple[list[int], list[int]]:
    """First child and next sibling of each node, by definition."""
    nodes = range(len(parents))
    child = [next((k for k in nodes if parents[k] == node), -1) for node in nodes]
    sibling = [next((k for k in nodes if k > n and n and parents[k] == parents[n]), -1) for n in nodes]
    return child, sibling


def draw_mask(rng: random.Random) -> Arguments:
    batch, n = rng.randint(1, 4), rng.randint(1, 9)
    mask = torch.zeros(batch, n, n, dtype=torch.bool)
    for request in range(batch):
        for node, parent in enumerate(random_parents(rng, n)):
            mask[request, node] = mask[request, parent] if parent >= 0 else False
            mask[request, node, node] = True
    lengths = ints([rng.randint(0, 9000) for _ in range(batch)])
    outputs = [poisoned(batch, n) for _ in range(3)]
    return [mask.flatten(), lengths, poisoned(batch * n), *outputs, batch, n]


def reconstruct_only_children(*arguments: Any) -> None:
    reconstruct_indices_from_tree_mask(*arguments)
    arguments[5].fill_(-1)


def draw_verify(rng: random.Random) -> Arguments:
    batch, n, steps = rng.randint(1, 4), rng.randint(1, 9), rng.randint(1, 6)
    tree = [links(random_parents(rng, n)) for _ in range(batch)]
    tokens = ints([[rng.randrange(3) for _ in range(n)] for _ in range(batch)])
    target = ints([[rng.randrange(3) for _ in range(n)] for _ in range(batch)])
    places = torch.arange(batch * n).view(batch, n)
    children, siblings = ints([child for child, _ in tree]), ints([sibling for _, sibling in tree])
    outputs = [poisoned(batch * n, dtype=torch.int32), poisoned(batch, steps), poisoned(batch)]
    return [*outputs, tokens, places, children, siblings, target]


def verify_without_siblings(*arguments: Any) -> None:
    arguments[6].fill_(-1)
    sgl_kernel.verify_tree_greedy_cpu(*arguments)


def draw_eagle(rng: random.Random) -> Arguments:
    batch, topk, depth, mode = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 4), rng.choice([0, 1])
    n = 1 + rng.randint(1, min(6, topk + topk * topk * (depth - 1)))
    drawn = [draw_eagle_tree(rng, topk, depth, n - 1) for _ in range(batch)]
    lengths = [rng.randint(0, 9) for _ in range(batch)]
    cells = sum(n * (n + length * (mode == 0)) for length in lengths)
    parents, selected = ints([tree[0] for tree in drawn]), ints([tree[1] for tree in drawn])
    outputs = [torch.full((batch, n), -1) for _ in range(3)]
    mask = torch.ones(cells, dtype=torch.bool)
    return [parents, selected, ints(lengths), mask, poisoned(batch * n), *outputs, topk, depth, n, mode]


def draw_eagle_tree(rng: random.Random, topk: int, depth: int, wanted: int) -> tuple[list[int], list[int]]:
    """Entries 0..topk-1 are children of the root; each later layer expands topk entries of the one before."""
    parent_list, parent_of, layer = [-1], dict.fromkeys(range(topk), -1), list(range(topk))
    for _ in range(depth - 1):
        first = len(parent_list)
        expanded = sorted(rng.sample(layer, topk))
        parent_list += expanded
        layer = [(first + place) * topk + child for place in range(topk) for child in range(topk)]
        parent_of |= {entry: expanded[entry // topk - first] for entry in layer}
    chosen: set[int] = set()
    while len(chosen) < wanted:
        open_entries = [e for e, parent in parent_of.items() if e not in chosen and (parent < 0 or parent in chosen)]
        chosen.add(rng.choice(open_entries))
    return parent_list, sorted(chosen)


def eagle_all_from_root(*arguments: Any) -> None:
    sgl_kernel.build_tree_kernel_efficient_cpu(arguments[0], arguments[1] * 0, *arguments[2:])


# -- what was accepted


def draw_bonus(rng: random.Random) -> Arguments:
    batch, stride = rng.randint(1, 6), rng.randint(1, 5)
    lengths = ints([rng.randint(1, stride) for _ in range(batch)], torch.int32)
    return [torch.arange(batch * stride) + 100, lengths, poisoned(batch + 1, dtype=torch.int32), stride]


def bonus_is_first(tokens: Tensor, lengths: Tensor, bonus: Tensor, stride: int) -> None:
    sgl_kernel.fill_bonus_tokens_cpu(tokens, torch.ones_like(lengths), bonus, stride)


def draw_accepted(rng: random.Random) -> Arguments:
    places = [rng.choice([-1, place]) for place in range(rng.randint(1, 12))]
    return [ints(places, torch.int32), torch.arange(len(places)) + 900, poisoned(len(places))]


def accepted_unpacked(places: Tensor, slots: Tensor, out: Tensor) -> None:
    kept = places.long()[places > -1]
    out[kept] = slots[kept]


def draw_rotation(rng: random.Random) -> Arguments:
    lengths = [rng.choice([0, 1, 2, 19]) for _ in range(rng.randint(1, 5))]
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    places = ints(
        [start + rng.randrange(length) if length else 0 for start, length in zip(starts, lengths, strict=True)]
    )
    tokens = ints([[7000 + at] for at in range(len(lengths))])
    return [torch.arange(sum(lengths) + 2), ints(starts), ints(lengths), tokens, rng.choice([None, places])]


def rotation_puts_last(*arguments: Any) -> None:
    sgl_kernel.rotate_input_ids_cpu(*arguments[:-1], None)


CASES = [
    case(draw_spans, assign_without_advance, sgl_kernel.assign_req_to_token_pool_cpu),
    case(draw_spans, read_without_advance, sgl_kernel.assign_extend_cache_locs_cpu),
    case(draw_drafts, drafts_from_zero, sgl_kernel.assign_draft_cache_locs_contiguous_cpu),
    case(draw_rows, copy_in_turn, copy_rows, "copy_all_layer_kv_cache_cpu"),
    case(draw_seeds, hash_of_low_half, sgl_kernel.murmur_hash32_cpu),
    case(draw_mask, reconstruct_only_children, reconstruct_indices_from_tree_mask),
    case(draw_verify, verify_without_siblings, sgl_kernel.verify_tree_greedy_cpu),
    case(draw_eagle, eagle_all_from_root, sgl_kernel.build_tree_kernel_efficient_cpu),
    case(draw_bonus, bonus_is_first, sgl_kernel.fill_bonus_tokens_cpu),
    case(draw_accepted, accepted_unpacked, sgl_kernel.fill_accept_out_cache_loc_cpu),
    case(draw_rotation, rotation_puts_last, sgl_kernel.rotate_input_ids_cpu),
]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each
@settings(max_examples=25, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_equals_the_triton_kernel(case: Case, triton: Interpreter, rng: random.Random) -> None:
    arguments = case.draw(rng)
    assert same(after(case.ours, arguments), triton.call(case.name, arguments))


@each
def test_a_wrong_version_is_told_apart(case: Case, triton: Interpreter) -> None:
    drawn = (case.draw(random.Random(seed)) for seed in range(40))
    assert not all(same(after(case.broken, arguments), triton.call(case.name, arguments)) for arguments in drawn)


def test_every_function_has_a_case() -> None:
    assert {case.name for case in CASES} == {*sgl_kernel.__all__, "reconstruct_indices_from_tree_mask"}
