"""`sglang-paste serve`: SGLang's own launcher behind a check of the hooks."""

import sys
from collections.abc import Sequence

from sglang_paste.patches import check
from sglang_paste.patches.table import HOOKS


def serve(arguments: Sequence[str]) -> int:
    """Run `sglang serve` with the arguments in this process. Raises HookError where SGLang is not as expected."""
    check.require(HOOKS)
    sys.argv = ["sglang", "serve", *arguments]
    from sglang.cli.main import main

    if {"-h", "--help"} & set(arguments):
        # `sglang serve --help` prints before it loads its plugins, and so without our flags.
        from sglang.srt.plugins import load_plugins

        load_plugins()
    main()
    return 0
