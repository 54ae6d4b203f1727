"""How far the servers of a bench draft, stock's NGRAM and ours: as `python -m bench.decode --sweep` found it to be
fastest on calls. NGRAM drafts from what its server has seen; it is given no other text."""

NGRAM_DRAFTS = 8
OUR_DRAFTS = 48


def ngram(drafts: int) -> tuple[str, ...]:
    """A server's arguments."""
    return "--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", str(drafts)
