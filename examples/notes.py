"""Functions that examples/tools.toml offers as tools."""

from typing import Annotated


def word_count(text: Annotated[str, "the text to look at"], longest: int = 5) -> dict[str, object]:
    """Count the words of a text and name its longest ones."""
    words = text.split()
    return {"words": len(words), "longest": sorted(set(words), key=len, reverse=True)[:longest]}
