from pathlib import Path

import pytest
from tool_bench import Bench

from sglang_paste.config import CommandTool, PythonTool
from sglang_paste.errors import ConfigError
from sglang_paste.execute.load import load_config

OBJECT = '{type = "object", properties = {a = {type = "string"}}}'
COMMAND = f'[tools.t]\nkind = "command"\nargv = ["echo", "{{a}}"]\nparameters = {OBJECT}\n'
PYTHON = '[tools.t]\nkind = "python"\nfunction = "m:f"\n'
HTTP = f'[tools.t]\nkind = "http"\nurl = "http://localhost:1/x"\nparameters = {OBJECT}\n'


def test_a_whole_file(bench: Bench) -> None:
    bench.folder.joinpath("work").mkdir()
    path = bench.write(
        "tools.toml",
        f'{COMMAND}workspace = "work"\n{PYTHON.replace("tools.t", "tools.p")}timeout_s = 3\n'
        '[mcp.files]\ncommand = ["python3", "-m", "x"]\n[mcp.files.tools.list]\neffect = "read"\n'
        '[limits]\nspeculative = 2\n[tenants.one]\ntoken_env = "ONE"\n',
    )
    config = load_config(str(path))
    command, python = config.tools["t"], config.tools["p"]
    assert isinstance(command, CommandTool)
    assert isinstance(python, PythonTool)
    assert (command.workspace, config.folder) == (str(bench.folder / "work"), str(bench.folder))
    assert python.timeout_s == 3.0
    assert str(command.argv[0]).endswith("/echo")
    assert config.mcp["files"].tools["list"].effect == "read"
    assert (config.limits.speculative, config.tenants["one"].token_env) == (2, "ONE")


def test_an_empty_file_has_no_tools(bench: Bench) -> None:
    assert load_config(bench.write("tools.toml", "")).tools == {}


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ("[tools.t", "is not TOML"),
        (f"{COMMAND}{COMMAND}", "is not TOML: Cannot declare ('tools', 't') twice"),
        ("[tols.t]", "unknown key 'tols'; did you mean tools?"),
        (f"{COMMAND}specualte = true", "unknown key 'specualte' in tools.t; did you mean speculate?"),
        ("[limits]\nxyz = 1", "unknown key 'xyz' in limits; the keys are speculative"),
        ('[tools.t]\nkind = "shell"', "tools.t has the kind 'shell'; give one of python, command, http"),
        ("[tools.t]", "tools.t has no kind"),
        ('[tools]\nt = "x"', "tools.t has no kind"),
        ("tools = 1", "tools is not a table"),
        ('[tools."a b"]', "tools.'a b' is not a name"),
        (COMMAND.replace('["echo", "{a}"]', '["echo", 3]'), "tools.t.argv[1]: expected"),
        (COMMAND.replace("{a}", "{b}"), "tools.t uses {b}, which is not among its parameters"),
        (f'{COMMAND}stdin = "{{aa}}"', "tools.t uses {aa}, which is not among its parameters; did you mean {a}?"),
        (COMMAND.replace("{a}", "{a"), "without a name; write {{ or }}"),
        (COMMAND.replace('"echo", "{a}"', '"{a}"'), "which program runs is not for the caller to say"),
        (COMMAND.replace('"echo", "{a}"', ""), "does not begin with a program"),
        (COMMAND.replace("echo", "no-such-program"), "names the program 'no-such-program', which is not there"),
        (f'{COMMAND}workspace = "absent"', "tools.t.workspace is 'absent', which is not a folder"),
        (f'{COMMAND}workspace = "/usr"', "which belongs to the system"),
        (f'{COMMAND}readable = ["absent"]', "tools.t.readable names 'absent', which is not there"),
        (f"{COMMAND}timeout_s = -1", "tools.t.timeout_s is -1.0; give seconds between 0.001 and 86400"),
        (f"{COMMAND}concurrency = 0", "tools.t.concurrency is 0"),
        (f"{COMMAND}output_limit = 0", "tools.t.output_limit is 0"),
        (f'{COMMAND}inert = ["b"]', "tools.t.inert names 'b', which is not among its parameters"),
        (f'{COMMAND}reads_when = {{ b = ["ls"] }}', "tools.t.reads_when names 'b', which is not among its parameters"),
        (f'{COMMAND}reads_when = {{ a = ["sh -c"] }}', "tools.t.reads_when.a names 'sh -c': sh can do anything"),
        (f'{COMMAND}effect = "read"\nreads_when = {{ a = ["ls"] }}', "a tool that writes else, and its effect is read"),
        (f'{PYTHON}reads_when = {{ a = ["ls"] }}', "tools.t.reads_when is not for python tools"),
        ('[mcp.s]\ncommand = ["true"]\ntools.b = { reads_when = { a = ["rm"] } }', "mcp.s.tools.b.reads_when.a names"),
        (f'{COMMAND}effect = "reads"', "tools.t.effect: invalid enum value 'reads'"),
        (f'{COMMAND}effect = "read"\nwrites = ["x"]', 'set effect = "write"'),
        (f'{COMMAND}effect = "pure"\nreads = ["x"]', 'set effect = "read"'),
        (COMMAND.replace(OBJECT, '{type = "array"}'), 'its "type" is "array"'),
        (COMMAND.replace(OBJECT, '{type = "object", properties = {a = {type = "strin"}}}'), "no JSON Schema"),
        (COMMAND.replace(OBJECT, '{type = "object", properties = {a = {"$ref" = "http://x/y"}}}'), "no JSON Schema"),
        (COMMAND.replace(f"parameters = {OBJECT}", ""), "tools.t has no parameters"),
        (PYTHON.replace("m:f", "m.f"), "tools.t.function is 'm.f'; write it as module:function"),
        (HTTP.replace("http://localhost:1/x", "localhost"), "give a URL that begins with http://"),
        ("[mcp.s]", "mcp.s needs either a command (stdio) or a url"),
        ('[mcp.s]\ncommand = ["true"]\nurl = "http://x"', "and not both"),
        ('[mcp.a__b]\ncommand = ["true"]', "holds '__' in its name"),
        ('[mcp.s]\ncommand = ["no-such-program"]', "names the program 'no-such-program'"),
        ('[mcp.s]\ncommand = ["true"]\nonly = ["a"]\n[mcp.s.tools.b]', "mcp.s.tools.b is not in mcp.s.only"),
        ('[mcp.s]\ncommand = ["true"]\n[mcp.s.tools.b]\nspeculat = true', "unknown key 'speculat' in mcp.s.tools.b"),
        ('[mcp.s]\ncommand = ["true"]\ntools = 3', "mcp.s.tools is not a table"),
        ("[limits]\nminimum_probability = 2", "limits.minimum_probability is 2.0"),
        ("[limits]\nprice = [1.0, 0.5]", "limits.price is [1.0, 0.5]"),
        ("[tenants.a]", "tenants.a: object missing required field `token_env`"),
    ],
)
def test_each_mistake_is_named(bench: Bench, toml: str, fault: str) -> None:
    path = bench.write("tools.toml", toml)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")


def test_python_tools_beside_a_home_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bench.folder))
    with pytest.raises(ConfigError, match="move it to its own"):
        load_config(bench.write("tools.toml", PYTHON))


def test_the_example_is_right() -> None:
    config = load_config(Path(__file__).parents[2] / "examples" / "tools.toml")
    assert set(config.tools) == {"search", "word_count"}
