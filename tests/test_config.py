import msgspec
import pytest

from sglang_paste.config import CommandTool, HttpTool, Limits, McpServer, Policy, PythonTool, Settings, ToolConfig


def test_a_tool_of_which_nothing_is_said_is_taken_for_the_worst() -> None:
    policy = Policy()
    assert (policy.effect, policy.observes, policy.speculate, policy.disclose) == ("write", "external", False, False)


@pytest.mark.parametrize("kind", [Policy, Limits, McpServer, ToolConfig])
def test_an_unknown_key_is_refused(kind: type[msgspec.Struct]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `surprise`"):
        msgspec.convert({"surprise": 1}, kind)


def test_the_kind_says_which_tool_it_is() -> None:
    tables = {"python": {"function": "m:f"}, "command": {"argv": ["true", ["-n", "{a}"]]}, "http": {"url": "http://x"}}
    tools = [
        msgspec.convert({"kind": kind, **table}, PythonTool | CommandTool | HttpTool) for kind, table in tables.items()
    ]
    assert [type(tool) for tool in tools] == [PythonTool, CommandTool, HttpTool]


def test_settings_survive_their_way_to_the_children() -> None:
    settings = Settings(
        tool_config="/x/tools.toml",
        gateway_host="127.0.0.1",
        gateway_port=30_001,
        run_dir="/run/x",
        state_dir="/state",
        inert={"t": ("why",)},
    )
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings
