"""Runs the tools of a tools.toml inside a test."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sglang_paste.calls import DEFAULT_TENANT, ToolCall
from sglang_paste.execute.base import Outcome, Run
from sglang_paste.execute.catalog import Catalog
from sglang_paste.execute.load import load_config

DEADLINE_S = 110.0

T = TypeVar("T")


class Bench:
    """A folder with a tools.toml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def catalog(self, toml: str) -> Catalog:
        return Catalog(load_config(self.write("tools.toml", toml)))

    def use(self, toml: str, scenario: Callable[[Catalog], Awaitable[T]]) -> T:
        """Run `scenario` on the open catalog of a tools.toml."""
        catalog = self.catalog(toml)

        async def main() -> T:
            async with asyncio.timeout(DEADLINE_S):
                await catalog.open()
                try:
                    return await scenario(catalog)
                finally:
                    await catalog.close()

        return asyncio.run(main())

    def once(self, toml: str, tool: str, **arguments: object) -> Outcome:
        """The outcome of one authoritative run."""

        async def scenario(catalog: Catalog) -> Outcome:
            return await launch(catalog, tool, **arguments).wait()

        return self.use(toml, scenario)


def launch(catalog: Catalog, tool: str, *, speculative: bool = False, **arguments: object) -> Run:
    return catalog.launch(ToolCall(tenant=DEFAULT_TENANT, tool=tool, arguments=arguments), speculative=speculative)


async def eventually(condition: Callable[[], object], deadline_s: float = 20.0) -> None:
    """Wait until `condition` holds; TimeoutError at the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what happens in other processes has no event here
            await asyncio.sleep(0.01)
