"""Build the shop: `python build.py app|docs`; prints a JSON list of what was built, with sizes in bytes."""

import json
import py_compile
import pydoc
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
STANDARD_LIBRARY = Path(json.__file__).parent.parent
BUNDLED = ("json", "email", "unittest", "http", "asyncio", "logging", "importlib", "concurrent")


def build_app(out: Path) -> list[Path]:
    """One archive of byte code: the shop and the parts of the standard library it needs."""
    sources = [*sorted((HERE / "shop").glob("*.py"))]
    for package in BUNDLED:
        sources += sorted((STANDARD_LIBRARY / package).rglob("*.py"))
    archive = out / "shop.pyz"
    with zipfile.ZipFile(archive, "w") as target:
        for number, source in enumerate(sources):
            compiled = out / f"{number}.pyc"
            py_compile.compile(str(source), str(compiled), doraise=True, optimize=2)
            target.write(compiled, f"{source.parent.name}/{source.stem}.pyc")
    return [archive]


def build_docs(out: Path) -> list[Path]:
    """A page for each module of the shop and of the bundled packages."""
    pages = []
    for name in ("shop.pricing", "shop.inventory", "shop.shipping", "shop.invoices", *BUNDLED):
        page = out / f"{name}.html"
        page.write_text(pydoc.HTMLDoc().docmodule(__import__(name, fromlist=["_"])))
        pages.append(page)
    return pages


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        built = {"app": build_app, "docs": build_docs}[target](Path(folder))
        print(json.dumps({"target": target, "built": [page.name for page in built]}))


if __name__ == "__main__":
    main(sys.argv[1])
