"""tools.toml, read and checked before anything is started."""

from pathlib import Path

from sglang_paste.config import ToolConfig


def load_config(path: str | Path) -> ToolConfig:
    """The configuration in `path`; raises ConfigError naming the file, the key, what was found and what to do."""
    raise NotImplementedError
