"""A tool as it is offered."""

from typing import Literal

import msgspec

from sglang_paste.config import JsonSchema, Policy
from sglang_paste.errors import ConfigError
from sglang_paste.execute.schema import ArgumentSchema

Kind = Literal["python", "command", "mcp", "http"]


class ToolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is offered. `parameters` is the JSON Schema of its arguments; `hints` are what an MCP server says
    of its own tool, for the operator to read and never a permission. A `remote` one takes no core of this machine."""

    name: str
    description: str
    parameters: JsonSchema
    policy: Policy
    kind: Kind
    hints: tuple[str, ...] = ()
    remote: bool = False


class Offer:
    """A tool with its compiled schema; raises ConfigError, which begins with `where`."""

    def __init__(self, info: ToolInfo, where: str) -> None:
        self.info = info
        try:
            self.schema = ArgumentSchema(info.parameters)
        except ValueError as error:
            raise ConfigError(f"{where} has a schema that cannot be used: {error}") from error
        for name in info.policy.inert:
            if name not in self.schema.properties:
                raise ConfigError(f"{where}: inert names {name!r}, which is not among its arguments; correct the name")
