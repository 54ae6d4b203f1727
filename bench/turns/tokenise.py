"""`python -m bench.turns.tokenise`: what a turn costs on the tokenizer's event loop, with and without kept tokens.

The real tokenizer manager and chat API run in this process with nothing behind them. Both sides get the same turns of
one session, alternating: `stock` with kept tokens off, where SGLang's own functions do all the work. A turn adds a tool
call and its result; the model's answer comes back as it was generated. The prompts of both sides must be the same text;
where the answer's own tokens are not those of the tokenizer, their ids differ, and that is counted.
"""

import argparse
import asyncio
import copy
import gc
import json
import pickle  # noqa: TID251 - measured as SGLang's transport, on our own data
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

from bench.cpu import record
from bench.turns.host import Host, delta_turns, start
from bench.turns.session import TOOLS, Session
from sglang_paste.calls import DEFAULT_TENANT, SessionId

SESSION = SessionId("bench")
SIZES = (10_000, 50_000, 150_000)
# The first renderings that are resumed are compared with whole ones.
WARM_UP = 5


class Turns:
    """The turns of a session, and how each is put to the chat API."""

    def __init__(self, host: Host, tokens: int) -> None:
        self.host = host
        self.session = Session(tokens)
        self.session.grow(tokens)

    def body(self) -> bytes:
        """The session as a client sends it."""
        return json.dumps({"model": "default", "messages": self.session.messages, "tools": TOOLS}).encode()

    def request(self, body: bytes) -> Any:
        from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest

        return ChatCompletionRequest.model_validate(json.loads(body))

    def convert(self, request: Any) -> Any:
        return self.host.chat._convert_to_internal_request(request)[0]

    def answered(self, adapted: Any) -> None:
        """The engine's answer to the request arrives: the text and the call that the next turn brings back."""
        from sglang_paste.patches import turns

        self.session.turn()
        *before, answer, _result = self.session.messages
        tokenizer = self.host.manager.tokenizer
        text = tokenizer.apply_chat_template([*before, answer], tools=TOOLS, tokenize=False)
        prompt = tokenizer.apply_chat_template(before, tools=TOOLS, tokenize=False, add_generation_prompt=True)
        said = tokenizer.encode(text.removeprefix(prompt).rstrip("\n"), add_special_tokens=False)
        state = SimpleNamespace(obj=adapted, output_ids=[])
        outputs = SimpleNamespace(rids=["r"], finished_reasons=[{"type": "stop"}], output_ids=[said])
        turns.answered(SimpleNamespace(rid_to_state={"r": state}), outputs)


def timed(act: Callable[[], Any]) -> tuple[Any, float, float]:
    """What comes of it, its seconds, and those this thread really ran: on a busy machine the second is the cost."""
    gc.collect()
    began, ran = time.perf_counter(), time.thread_time()
    result = act()
    return result, time.perf_counter() - began, time.thread_time() - ran


def compare(host: Host, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of both sides for the same turns of a session of about `tokens` tokens."""
    turns = Turns(host, tokens)
    times: dict[str, list[float]] = {side: [] for side in ("stock", "delta", "stock_cpu", "delta_cpu")}
    size = made = differ = 0
    with delta_turns() as kept:
        for _ in range(WARM_UP):
            turns.answered(turns.convert(turns.request(turns.body())))
        for number in range(rounds):
            body, before = turns.body(), kept.counts.tokens["made"]
            sides = ("stock", "delta") if number % 2 else ("delta", "stock")
            prompts: dict[str, Any] = {}
            for side in sides:
                request = turns.request(body)
                with delta_turns(0) if side == "stock" else nullcontext():
                    prompts[side], *seconds = timed(partial(turns.convert, request))
                for name, value in zip((side, f"{side}_cpu"), seconds, strict=True):
                    times[name].append(value)
            stock, delta = list(prompts["stock"].input_ids), list(prompts["delta"].input_ids)
            if stock != delta:
                differ += 1
                if host.manager.tokenizer.decode(stock) != host.manager.tokenizer.decode(delta):
                    raise SystemExit("the prompts are not the same text, so that their times cannot be compared")
            size, made = len(prompts["delta"].input_ids), kept.counts.tokens["made"] - before
            turns.answered(prompts["delta"])
    return {
        "tokens": size,
        "new_tokens": made,
        "prompts_with_other_ids": differ,
        **{side: record.spread(seconds) for side, seconds in times.items()},
        "ratio": round(record.spread(times["stock"])["p50_s"] / record.spread(times["delta"])["p50_s"], 1),
        "parts_cpu_s": parts(turns, rounds),
    }


def parts(turns: Turns, rounds: int) -> dict[str, float]:
    """The median seconds this thread ran for each step from a request's bytes to the scheduler, alone."""
    from sglang_paste.patches.api_turn import chat_messages
    from sglang_paste.patches.turn_past import Pasts, Present
    from sglang_paste.patches.turn_render import resumable
    from sglang_paste.session import Sessions

    body = turns.body()
    data = json.loads(body)
    request = turns.request(body)
    tokenizer = turns.host.manager.tokenizer
    messages = [message.model_dump() for message in request.messages]
    source = tokenizer.get_chat_template(None, TOOLS)
    template, variables = resumable(source), {"tools": TOOLS, "add_generation_prompt": True}
    pasts = Pasts(1 << 28)
    last = Present("", request.messages[:-2], pasts)
    _ = [view.model_dump() for view in last.views()]
    last.keep()
    text = tokenizer.apply_chat_template(messages, tools=TOOLS, tokenize=False, add_generation_prompt=True)
    with delta_turns():
        prompt = turns.convert(turns.request(body)).input_ids
    tokens, sessions = prompt.tolist(), Sessions()
    assert template is not None
    _, left = template.render(messages[:-2], None, variables)
    short = chat_messages(request.messages)
    for message in short:
        for call in message.calls:
            sessions.issued(DEFAULT_TENANT, SESSION, call.call_id)
    steps: dict[str, Callable[[], Any]] = {
        "parse JSON": lambda: json.loads(body),
        "validate": lambda: type(request).model_validate(data),
        "session identity": lambda: sessions.resolve(DEFAULT_TENANT, chat_messages(request.messages)),
        "fresh messages": lambda: sessions.fresh(DEFAULT_TENANT, SESSION, short),
        "copy messages": lambda: copy.deepcopy(messages),
        "dump messages": lambda: [message.model_dump() for message in request.messages],
        "render": lambda: tokenizer.apply_chat_template(
            messages, tools=TOOLS, tokenize=False, add_generation_prompt=True
        ),
        "know messages": lambda: copy.deepcopy(
            [view.model_dump() for view in Present("", request.messages, pasts).views()]
        ),
        "render the rest": lambda: template.render(messages, left, variables),
        "tokenise all": lambda: tokenizer.encode(text),
        "list to array": lambda: array("q", tokens),
        "prompt to array": lambda: array("q", prompt),
        "IPC both ways": lambda: pickle.loads(pickle.dumps(array("q", prompt), 5)),  # noqa: S301
        "submit": lambda: asyncio.run(submit(turns.host, prompt)),
    }
    return {name: record.spread([timed(step)[2] for _ in range(rounds)])["p50_s"] for name, step in steps.items()}


async def submit(host: Host, prompt: Any) -> None:
    """What the tokenizer manager does with a prompt's tokens until it sends them."""
    from sglang.srt.managers.io_struct import GenerateReqInput

    obj = GenerateReqInput(input_ids=prompt, sampling_params={})
    obj.normalize_batch_and_arguments()
    host.manager._init_req_state(obj)
    await host.manager._send_one_request(await host.manager._tokenize_one_request(obj))
    host.sent.clear()
    host.manager.rid_to_state.clear()


def show(results: Sequence[dict[str, Any]]) -> None:
    print("| tokens | new | stock p50 | p95 | CPU | delta p50 | p95 | CPU | n | other ids | stock / delta |")
    print("|---:" * 11 + "|")
    for row in results:
        places = [("stock", "p50_s"), ("stock", "p95_s"), ("stock_cpu", "p50_s")]
        places += [(side.replace("stock", "delta"), name) for side, name in places]
        cells = [f"{1e3 * row[side][name]:.1f} ms" for side, name in places]
        numbers = [
            row["tokens"],
            row["new_tokens"],
            *cells,
            row["delta"]["n"],
            row["prompts_with_other_ids"],
            row["ratio"],
        ]
        print(f"| {' | '.join(map(str, numbers))} |")
    print("\n| step |" + "".join(f" {row['tokens']} |" for row in results) + "\n|---|" + "---:|" * len(results))
    for step in results[0]["parts_cpu_s"]:
        print(f"| {step} |" + "".join(f" {1e3 * row['parts_cpu_s'][step]:.2f} ms |" for row in results))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="turns per size")
    parser.add_argument("--dry", action="store_true", help="print only")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    host = start()
    host.manager.tokenizer.model_max_length = 1 << 30
    gc.collect()
    gc.freeze()
    results = [compare(host, size, arguments.rounds) for size in SIZES]
    show(results)
    if not arguments.dry:
        print(f"\nadded to {record.append('turns_tokenise', {'rows': results})}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
