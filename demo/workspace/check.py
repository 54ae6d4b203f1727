"""Run one module's tests and print a JSON report without times: `python check.py MODULE`."""

import io
import json
import sys
import unittest


def report(module: str) -> dict[str, object]:
    suite = unittest.defaultTestLoader.loadTestsFromName(f"tests.test_{module}")
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    failures = [
        {"test": test.id().rsplit(".", 1)[-1], "error": trace.strip().splitlines()[-1]}
        for test, trace in [*result.failures, *result.errors]
    ]
    return {"module": module, "tests": result.testsRun, "failures": failures}


if __name__ == "__main__":
    print(json.dumps(report(sys.argv[1])))
