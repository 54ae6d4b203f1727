"""Drafts of several sources become the chain or tree that one forward pass verifies."""

from torch import Tensor

from sglang_paste.kernels.device import uses_triton
from sglang_paste.kernels.draft_pack import host
from sglang_paste.kernels.draft_pack.types import Pack, Shape, empty_pack

__all__ = ["Pack", "Shape", "draft_pack"]


def draft_pack(
    roots: Tensor,
    drafts: Tensor,
    counts: Tensor,
    seq_lens: Tensor,
    limits: Tensor,
    *,
    width: int,
    shape: Shape = "tree",
    seq_lens_sum: int | None = None,
    out: Pack | None = None,
) -> Pack:
    """Pack what the sources drafted into `width` nodes for each request, the root among them.

    roots: [batch], the last committed token
    drafts: [batch, sources, draft], sources in order of trust; counts: [batch, sources], how many tokens of each are
        real; a negative id ends a draft as well
    seq_lens: [batch], the tokens before the root, which is at that position
    limits: [batch], how many nodes a request may have beside its root; 0 switches it off
    shape: a `tree` merges all sources, equal beginnings once, the most trusted first; a `chain` is the first source
        that drafted anything
    seq_lens_sum: the sum of seq_lens where it is known on the host; with it the full mask is made too
    out: tensors to write to; what a `full_mask` is longer is filled with ones, as SGLang pads it

    All integers are int32 or int64. Unused nodes see the text and themselves, and no link leads to one: verification
    cannot accept them. ValueError for shapes that do not belong together.
    """
    batch, sources, _ = drafts.shape
    if counts.shape != (batch, sources) or any(len(each) != batch for each in (roots, seq_lens, limits)):
        raise ValueError(
            f"drafts are {tuple(drafts.shape)} and counts {tuple(counts.shape)}, with {len(roots)} roots, "
            f"{len(seq_lens)} lengths and {len(limits)} limits; all need the same batch, and counts one per source"
        )
    if not 1 <= sources <= 127 or width < 1:
        raise ValueError(
            f"{sources} sources and a width of {width}; 1 to 127 sources and a positive width can be packed"
        )
    if out is None:
        out = empty_pack(batch, width, seq_lens_sum, drafts.device)
    if uses_triton(drafts):
        from sglang_paste.kernels.draft_pack import triton

        triton.draft_pack(roots, drafts, counts, seq_lens, limits, width, shape, out)
    else:
        host.draft_pack(roots, drafts, counts, seq_lens, limits, width, shape, out)
    return out
