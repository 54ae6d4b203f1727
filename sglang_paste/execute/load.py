"""tools.toml, read and checked before anything is started."""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from sglang_paste.command_line import fault
from sglang_paste.config import (
    CommandTool,
    HttpTool,
    Limits,
    LocalTool,
    McpServer,
    Policy,
    PythonTool,
    Tenant,
    Tool,
    ToolConfig,
)
from sglang_paste.errors import ConfigError
from sglang_paste.execute.sandbox import find_program
from sglang_paste.execute.schema import ArgumentSchema
from sglang_paste.execute.template import ALL, ArgvTemplate, Item

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
KINDS: dict[str, type[PythonTool | CommandTool | HttpTool]] = {
    "python": PythonTool,
    "command": CommandTool,
    "http": HttpTool,
}
NOT_A_FOLDER = frozenset({"/", "/tmp", "/proc", "/dev", "/sys", "/etc", "/usr", "/bin", "/lib", "/lib64", "/sbin"})  # noqa: S108
RANGES: dict[str, tuple[float, float, str]] = {
    "timeout_s": (0.001, 86_400, "seconds"),
    "start_timeout_s": (0.001, 3_600, "seconds"),
    "concurrency": (1, 256, "runs"),
    "output_limit": (1, 64 * 1024 * 1024, "bytes"),
    "memory_limit": (16 * 1024 * 1024, 1 << 50, "bytes"),
    "processes": (1, 65_536, "processes"),
    "speculative": (0, 1_024, "runs"),
    "per_session": (0, 1_024, "runs"),
    "per_tool": (0, 1_024, "runs"),
    "minimum_probability": (0, 1, ""),
    "result_ttl_s": (0, 86_400, "seconds"),
    "results_bytes": (0, 1 << 50, "bytes"),
}

T = TypeVar("T", bound=msgspec.Struct)


def load_config(path: str | Path) -> ToolConfig:
    """The configuration in `path`; raises ConfigError naming the file, the key, what was found and what to do."""
    file = Path(path).expanduser().absolute()
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the path of a tools.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return _config(document, file.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _config(document: dict[str, Any], folder: Path) -> ToolConfig:
    sections = ("tools", "mcp", "limits", "tenants")
    for key in document:
        if key not in sections:
            raise ConfigError(_unknown(key, "", sections))
    tools = {name: _tool(name, table, folder) for name, table in _tables(document, "tools")}
    servers = {name: _server(name, table, folder) for name, table in _tables(document, "mcp")}
    tenants = {name: _convert(table, Tenant, f"tenants.{name}") for name, table in _tables(document, "tenants")}
    limits = _convert(document.get("limits", {}), Limits, "limits")
    _check_ranges(limits, "limits")
    if not 0 <= limits.price[0] <= limits.price[1]:
        raise ConfigError(
            f"limits.price is {list(limits.price)}; give the price at rest and the higher one at full load"
        )
    if any(isinstance(tool, PythonTool) for tool in tools.values()):
        _check_module_folder(folder)
    return ToolConfig(folder=str(folder), tools=tools, mcp=servers, limits=limits, tenants=tenants)


def _tables(document: dict[str, Any], section: str) -> list[tuple[str, Any]]:
    tables = document.get(section, {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{section} is not a table; write [{section}.<name>]")
    for name in tables:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{section}.{name!r} is not a name; use up to 64 letters, digits, '_' and '-'")
    return list(tables.items())


def _tool(name: str, table: Any, folder: Path) -> PythonTool | CommandTool | HttpTool:
    where = f"tools.{name}"
    kind = table.get("kind") if isinstance(table, dict) else None
    if kind not in KINDS:
        found = f"has the kind {kind!r}" if kind is not None else "has no kind"
        raise ConfigError(f"{where} {found}; give one of {', '.join(KINDS)} (MCP servers are [mcp.<name>])")
    tool = _convert(table, KINDS[kind], where)
    _check_policy(tool, where)
    schema = _check_schema(tool, where)
    if isinstance(tool, LocalTool):
        tool = _resolve_paths(tool, where, folder)
    if isinstance(tool, CommandTool):
        return _check_command(tool, where, folder, schema)
    if isinstance(tool, PythonTool) and not FUNCTION.fullmatch(tool.function):
        raise ConfigError(f"{where}.function is {tool.function!r}; write it as module:function")
    if isinstance(tool, HttpTool):
        _check_url(tool.url, f"{where}.url")
    return tool


def _server(name: str, table: Any, folder: Path) -> McpServer:
    where = f"mcp.{name}"
    server = _convert({**table, "tools": {}} if isinstance(table, dict) else table, McpServer, where)
    if bool(server.command) == (server.url is not None):
        raise ConfigError(f"{where} needs either a command (stdio) or a url (streamable HTTP), and not both")
    if "__" in name:
        raise ConfigError(f"{where} holds '__' in its name, which separates a server from its tools; leave it out")
    if server.url is not None:
        _check_url(server.url, f"{where}.url")
    _check_ranges(server, where)
    listed = table.get("tools", {})
    if not isinstance(listed, dict):
        raise ConfigError(f"{where}.tools is not a table; write [{where}.tools.<name>]")
    policies = {tool: _convert(policy, Policy, f"{where}.tools.{tool}") for tool, policy in listed.items()}
    for tool, policy in policies.items():
        _check_policy(policy, f"{where}.tools.{tool}")
        if server.only is not None and tool not in server.only:
            raise ConfigError(f"{where}.tools.{tool} is not in {where}.only; add it there or drop its policy")
    command = server.command
    if command:
        command = (_program(command[0], f"{where}.command", folder, server.environment), *command[1:])
    return msgspec.structs.replace(server, command=command, tools=policies)


def _convert(table: Any, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
        if unknown:
            raise ConfigError(_unknown(unknown[1], where, kind.__struct_encode_fields__)) from error
        raise ConfigError(f"{where}{path.rstrip('`')}: {message[0].lower()}{message[1:]}") from error


def _unknown(key: str, where: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
    return f"unknown key {key!r}{f' in {where}' if where else ''}; {advice}"


def _check_policy(policy: Policy, where: str) -> None:
    _check_ranges(policy, where)
    if policy.writes and policy.effect != "write":
        raise ConfigError(f'{where}.writes names resources, but its effect is {policy.effect}; set effect = "write"')
    _check_reads_when(policy, where)
    if policy.reads and policy.effect == "pure":
        raise ConfigError(f'{where}.reads names resources, but its effect is pure; set effect = "read"')


def _check_reads_when(policy: Policy, where: str) -> None:
    if policy.reads_when and policy.effect != "write":
        raise ConfigError(f"{where}.reads_when is for a tool that writes else, and its effect is {policy.effect}")
    if policy.reads_when and isinstance(policy, PythonTool):
        raise ConfigError(f"{where}.reads_when is not for python tools, whose workers may write always; drop it")
    for name, commands in policy.reads_when.items():
        for command in commands:
            if why := fault(command):
                raise ConfigError(f"{where}.reads_when.{name} names {command!r}: {why}")


def _check_ranges(record: msgspec.Struct, where: str) -> None:
    for key in record.__struct_fields__:
        value = getattr(record, key)
        if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
            low, high, unit = RANGES[key]
            raise ConfigError(f"{where}.{key} is {value}; give {unit or 'a number'} between {low} and {high}")


def _check_schema(tool: Tool, where: str) -> ArgumentSchema | None:
    if tool.parameters is None:
        if isinstance(tool, PythonTool):
            return None
        raise ConfigError(f"{where} has no parameters; give the JSON Schema of its arguments")
    try:
        schema = ArgumentSchema(tool.parameters)
    except ValueError as error:
        raise ConfigError(f"{where}.parameters is no JSON Schema of arguments: {error}") from error
    for name in tool.reads_when:
        if name not in schema.properties:
            raise ConfigError(f"{where}.reads_when names {name!r}, which is not among its parameters; correct the name")
    for name in tool.inert:
        if name not in schema.properties:
            raise ConfigError(f"{where}.inert names {name!r}, which is not among its parameters; correct the name")
    return schema


def _check_command(tool: CommandTool, where: str, folder: Path, schema: ArgumentSchema | None) -> CommandTool:
    if not tool.argv or not isinstance(tool.argv[0], str):
        raise ConfigError(f"{where}.argv does not begin with a program; give its name or path first")
    try:
        template = ArgvTemplate(tool.argv)
        names = template.names | Item.parse(tool.stdin or "").names
        fixed = not Item.parse(tool.argv[0]).names
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not fixed:
        raise ConfigError(f"{where}.argv begins with {tool.argv[0]!r}; which program runs is not for the caller to say")
    known = schema.properties if schema else frozenset[str]()
    for name in sorted(names - known - {ALL}):
        raise ConfigError(f"{where} uses {{{name}}}, which is not among its parameters; {_choice(name, known)}")
    program = _program(tool.argv[0], f"{where}.argv", folder, tool.environment)
    return msgspec.structs.replace(tool, argv=(program.replace("{", "{{").replace("}", "}}"), *tool.argv[1:]))


def _choice(name: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {{{near[0]}}}?" if near else "add it there, or write {{ and }} for braces"


def _program(name: str, where: str, folder: Path, environment: dict[str, str]) -> str:
    program = find_program(name, folder, environment.get("PATH"))
    if program is None:
        raise ConfigError(f"{where} names the program {name!r}, which is not there; install it or give its path")
    return program


def _resolve_paths(tool: LocalTool, where: str, folder: Path) -> Any:
    workspace = _folder(tool.workspace, f"{where}.workspace", folder) if tool.workspace is not None else None
    readable = []
    for text in tool.readable:
        path = folder / Path(text).expanduser()
        if not path.exists():
            raise ConfigError(f"{where}.readable names {text!r}, which is not there; create it or drop it")
        readable.append(str(path))
    return msgspec.structs.replace(tool, workspace=workspace, readable=tuple(readable))


def _folder(text: str, where: str, folder: Path) -> str:
    path = (folder / Path(text).expanduser()).resolve()
    if not path.is_dir():
        raise ConfigError(f"{where} is {text!r}, which is not a folder; create it or correct the path")
    if str(path) in NOT_A_FOLDER:
        raise ConfigError(f"{where} is {path}, which belongs to the system; give a folder of its own")
    return str(path)


def _check_url(url: str, where: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where} is {url!r}; give a URL that begins with http:// or https://")


def _check_module_folder(folder: Path) -> None:
    home = Path.home()
    if folder == home or folder in home.parents or str(folder) in NOT_A_FOLDER:
        raise ConfigError(f"python tools may read the folder of tools.toml, and that is {folder}; move it to its own")
