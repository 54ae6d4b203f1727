"""Where an answer ends when a step brings several tokens: where it would if they came one by one."""

from collections.abc import Callable
from typing import Any


def finishing(original: Callable[..., None], req: Any, new_accepted_len: int = 1) -> None:
    """Around `Req.update_finish_state`. SGLang looks for stop strings in all tokens of a step before it looks for a
    token that ends the answer, and for the first of the strings first, so that a later end can win over an earlier one.
    With stop strings the tokens are gone through in order here; what came behind the end stays, as it does in SGLang,
    beyond `finished_len`. A grammar has taken in the whole step, and says only then whether it has ended.
    """
    wanted = req.sampling_params
    in_order = new_accepted_len > 1 and (wanted.stop_strs or wanted.stop_regex_strs)
    if not in_order or req.finished() or req.to_finish is not None:
        original(req, new_accepted_len)
        return
    said, run = req.output_ids, list(req.output_ids[-new_accepted_len:])
    grammar, req.grammar = req.grammar, None
    del said[-new_accepted_len:]
    taken = 0
    try:
        while taken < len(run) - 1 and not req.finished():
            said.append(run[taken])
            taken += 1
            original(req, 1)
        if req.finished() and req.finished_len is None:
            req.finished_len = len(said)
    finally:
        said.extend(run[taken:])
        req.grammar = grammar
    if not req.finished():
        original(req, 1)
