"""The few SVG elements that the project's pictures are made of."""

import math
from html import escape


def element(name: str, content: str = "", /, **attributes: object) -> str:
    """An element. Numbers have one digit after the point; in the names of attributes `_` stands for `-`, but not at the
    end (`class_`). `content` is markup, and not escaped."""
    said = "".join(f' {_name(each)}="{_value(value)}"' for each, value in attributes.items() if value is not None)
    return f"<{name}{said}>{content}</{name}>" if content else f"<{name}{said}/>"


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def text(x: float, y: float, said: str, /, anchor: str | None = None, **attributes: object) -> str:
    """A line of text, escaped; `anchor` is start, middle or end."""
    return element("text", escape(said), x=x, y=y, text_anchor=anchor, **attributes)


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    base = 10.0 ** math.floor(math.log10(max(least, 1e-6)))
    return next((base * by for by in (1, 2, 5) if base * by >= least), base * 10)


def _name(attribute: str) -> str:
    return attribute.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else escape(str(value), quote=True)
