"""JSON Schemas of arguments, compiled once."""

import json
from itertools import islice

import jsonschema_rs

from sglang_paste.calls import Arguments
from sglang_paste.config import JsonSchema
from sglang_paste.errors import BadArguments

MAX_FAULTS = 3
MAX_FAULT_CHARS = 300


class ArgumentSchema:
    """The schema of one tool's arguments object. Raises ValueError, in one sentence, where it is no such schema."""

    def __init__(self, schema: JsonSchema) -> None:
        if schema.get("type") != "object":
            raise ValueError(f'its "type" is {json.dumps(schema.get("type"))}; arguments are an "object"')
        try:
            self._validator = jsonschema_rs.validator_for(schema, offline=True)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise ValueError(str(error).partition("\n")[0]) from error
        self.schema = schema

    @property
    def properties(self) -> frozenset[str]:
        """The names of the arguments it describes."""
        return frozenset(self.schema.get("properties", {}))

    def check(self, tool: str, arguments: Arguments) -> None:
        """Raises BadArguments with the path and the fault of the first few that there are."""
        try:
            if self._validator.is_valid(arguments):
                return
            faults = [_fault(error) for error in islice(self._validator.iter_errors(arguments), MAX_FAULTS)]
        except ValueError as error:
            raise BadArguments(f"the arguments of {tool} cannot be checked ({error}); make them simpler") from error
        raise BadArguments(f"the arguments of {tool} do not fit its schema: {'; '.join(faults)}")


def _fault(error: jsonschema_rs.ValidationError) -> str:
    message = error.message
    if len(message) > MAX_FAULT_CHARS:
        message = f"{message[:MAX_FAULT_CHARS]}…"
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return f"{path.lstrip('.')}: {message}" if path else message
