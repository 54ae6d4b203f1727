"""SGLang's own chat API, made once for all tests: it takes seconds."""

from functools import cache

from bench.turns.host import Host, start


@cache
def host() -> Host:
    """The real objects, with nothing behind them."""
    return start()
