"""Settings as typed records, from the launcher's flags and tools.toml. An unknown key fails by name."""

from typing import Any, Literal

import msgspec

Effect = Literal["pure", "read", "write"]
Observes = Literal["local", "external"]
JsonSchema = dict[str, Any]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator says of a tool. Only `speculate = true` lets it ever run early.

    `reads` and `writes` name resources; a name that starts with `session:` is each session's own.
    `inert` arguments cannot change the result and are not part of a call's key. A tool that is observed outside
    (`observes = "external"`) runs early only with `disclose = true` as well: an early call tells the outside what
    the user might want, and every one of them is kept in the disclosure log.

    `reads_when` is for tools that run shell commands: it names arguments, and for each the commands that only read, by
    their first words (`{ command = ["ls", "git log"] }`). A call of which all these arguments consist of such commands
    alone has the effect `read`, and no `writes`; see `command_line`.
    """

    effect: Effect = "write"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    reads_when: dict[str, tuple[str, ...]] = {}
    observes: Observes = "external"
    speculate: bool = False
    disclose: bool = False
    timeout_s: float = 60.0
    concurrency: int = 4
    output_limit: int = 1024 * 1024
    inert: tuple[str, ...] = ()


class Tool(Policy, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """A tool of tools.toml; `parameters` is the JSON Schema of its arguments object."""

    description: str = ""
    parameters: JsonSchema | None = None


class LocalTool(Tool, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that runs on this machine, in a sandbox of its own.

    It sees the system's programs, this Python environment, the folders in `readable`, and `workspace`, where it
    starts: read-only, unless its effect is `write`. Without `network` it has none. `environment` may refer to
    variables of the server as `${NAME}`; no other variable is inherited. `memory_limit` (bytes) and `processes` are for
    the run with all it starts. `sandbox = false` gives all of that up, and with it any right to run early.
    """

    workspace: str | None = None
    readable: tuple[str, ...] = ()
    network: bool = False
    environment: dict[str, str] = {}
    memory_limit: int = 2 * 1024**3
    processes: int = 64
    sandbox: bool = True


class PythonTool(LocalTool, frozen=True, kw_only=True, tag="python", forbid_unknown_fields=True):
    """A function `module:name` in a warm worker process; the module may lie beside tools.toml."""

    function: str


class CommandTool(LocalTool, frozen=True, kw_only=True, tag="command", forbid_unknown_fields=True):
    """A program, run without a shell.

    In an item of `argv`, `{name}` stands for the argument and `{*}` for all arguments as JSON. An item is left out
    where its argument is absent, and repeated for each element of an array. A group (an array of items) is left
    out as a whole; a boolean that stands alone in a group only decides about the group. A value may
    not make an item start with `-`, unless the item `--` came before. `stdin` is a template too.
    """

    argv: tuple[str | tuple[str, ...], ...]
    stdin: str | None = None
    success_codes: tuple[int, ...] = (0,)


class HttpTool(Tool, frozen=True, kw_only=True, tag="http", forbid_unknown_fields=True):
    """An HTTP endpoint; POST sends the arguments as JSON, GET as the query. The header named by `session_header` tells
    it which session a call belongs to, early calls included (percent-encoded); without one it is not told."""

    url: str
    method: Literal["GET", "POST"] = "POST"
    headers: dict[str, str] = {}
    session_header: str | None = None


class McpServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server over stdio (`command`) or streamable HTTP (`url`). Its tools are offered as
    `<server>__<tool>`; `tools` holds the policy of those the operator vouches for, `only` limits what is offered.
    `headers` and `environment` may refer to variables of the server as `${NAME}`."""

    command: tuple[str, ...] = ()
    url: str | None = None
    headers: dict[str, str] = {}
    environment: dict[str, str] = {}
    only: tuple[str, ...] | None = None
    start_timeout_s: float = 30.0
    tools: dict[str, Policy] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may run early: at once over all, per session, and per tool."""

    speculative: int = 4
    per_session: int = 2
    per_tool: int = 2
    minimum_probability: float = 0.1
    price: tuple[float, float] = (0.02, 0.20)
    result_ttl_s: float = 120.0
    results_bytes: int = 256 * 1024 * 1024


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant of the gateway, known by its bearer token (taken from an environment variable)."""

    token_env: str


class ToolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole tools.toml; `folder` is where it lies, and all paths in it are absolute."""

    folder: str = "."
    tools: dict[str, PythonTool | CommandTool | HttpTool] = {}
    mcp: dict[str, McpServer] = {}
    limits: Limits = Limits()
    tenants: dict[str, Tenant] = {}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher's flags come to, for all processes of a server. `run_dir` (mode 0700) holds the bus's
    socket and the state of the side process; `api_key` is the gateway's bearer token, None for no auth. `cpus` are the
    cores of the side process and its tools, None for all; `patterns` is a mined file; `inert` holds each tool's inert
    arguments by the name under which it is offered; `session_memory` (MiB) is for the tokens of conversations, 0 for
    none; `warm_slice` is how many tokens are prefilled ahead at a time, 0 for none; `return_bound` is how many seconds
    a waiting request may be passed by others, 0 for not at all; `retention_budget` is the share of the KV cache that
    may be retained, `retention_policy` the name of what decides; `draft_sources` are those of drafts, if any."""

    tool_config: str | None
    gateway_host: str
    gateway_port: int
    run_dir: str
    state_dir: str
    budget: int | None = None
    api_key: str | None = None
    cpus: tuple[int, ...] | None = None
    patterns: str | None = None
    inert: dict[str, tuple[str, ...]] = {}
    session_memory: int = 256
    warm_slice: int = 0
    return_bound: float = 5.0
    retention_budget: float = 0.8
    retention_policy: str = "value"
    draft_sources: tuple[str, ...] = ()
