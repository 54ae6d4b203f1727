"""The text that a request's grammar leaves no choice about, as a draft."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sglang_paste.boundary.gate import Decode
from sglang_paste.patches.text import decoder, encoder

logger = logging.getLogger(__name__)

# How many of the last tokens say how the text after them is divided.
CONTEXT = 4
# What may come after a text that is forced, and may be one token with its end.
_NEXT = ('"', ":", "a", "1", " ", "/", "\n", "}")


class Forced:
    """Asks the grammars of requests; asking changes nothing in them (SGLang's own jump-forward)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._encode = encoder(tokenizer)
        self._decode: Decode = decoder(tokenizer, skip_special=False)
        self._settled = lru_cache(4096)(self._is_settled)

    def of(self, req: Any) -> tuple[int, ...]:
        """The tokens that must follow what a request has so far."""
        if req.grammar is None:
            return ()
        try:
            tail = [max(token, 0) for token in (*req.origin_input_ids_unpadded[-CONTEXT:], *req.output_ids[-CONTEXT:])]
            return self.tokens(req.grammar, tail)
        except Exception:
            logger.exception("what a grammar forces is not drafted for request %s", req.rid)
            return ()

    def tokens(self, grammar: Any, tail: Sequence[int]) -> tuple[int, ...]:
        """The tokens that must follow the last ones of a request, `tail`; none where the grammar has a choice. The last
        one is left out where the model may write it as one with what comes next."""
        if grammar is None or grammar.is_terminated():
            return ()
        found = grammar.try_jump_forward(self._tokenizer)
        if not found:
            return ()
        tokens, text = found
        forced = tuple(tokens) or self._after(tuple(tail[-CONTEXT:]), text)
        return forced if not forced or self._settled(forced[-1]) else forced[:-1]

    def _after(self, tail: tuple[int, ...], text: str) -> tuple[int, ...]:
        whole = self._encode(self._decode(tail) + text)
        return whole[len(tail) :] if whole[: len(tail)] == tail else self._encode(text)

    def _is_settled(self, token: int) -> bool:
        text = self._decode([token])
        return all(self._encode(text + more)[:1] == (token,) for more in _NEXT)
