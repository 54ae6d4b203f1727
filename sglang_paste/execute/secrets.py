"""`${NAME}` in the configuration: values that belong in the environment and not in a file."""

import os
import re
from collections.abc import Mapping

from sglang_paste.errors import ConfigError

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expand(values: Mapping[str, str], where: str) -> dict[str, str]:
    """`values` with each `${NAME}` replaced; raises ConfigError where the variable is not set."""

    def look_up(reference: re.Match[str]) -> str:
        value = os.environ.get(reference[1])
        if value is None:
            raise ConfigError(f"{where} refers to ${{{reference[1]}}}, which is not set; set it before the start")
        return value

    return {name: REFERENCE.sub(look_up, value) for name, value in values.items()}
