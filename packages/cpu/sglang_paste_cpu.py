"""The stand-ins never share an environment with the real sgl_kernel or torchvision.

This one module is the refusal in every place where it can be made: as the build backend of the distribution, as a
command before an installation (`python sglang_paste_cpu.py`), and at each import of a stand-in.
"""

import importlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_REAL = re.compile(r"((?:sgl|sglang)[-_.]kernel[-_.\w]*?|torchvision)-([^-]+)\.(?:dist|egg)-info", re.IGNORECASE)
_PACKAGES = ("sgl_kernel", "torchvision")


def find_real(folders: Iterable[str | os.PathLike[str]]) -> list[str]:
    """What in these import folders is, or could be, a real sgl_kernel or torchvision: distributions and paths."""
    found = []
    for folder in {Path(entry) for entry in folders}:
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        found += [f"{hit[1]} {hit[2]}" for hit in map(_REAL.fullmatch, entries) if hit]
        if Path(__file__).name not in entries:
            found += [str(folder / name) for name in _PACKAGES if (folder / name / "__init__.py").exists()]
    return sorted(set(found))


def site_folders() -> list[str]:
    """The folders of this interpreter into which an installation would write."""
    return [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def refuse_beside_real(folders: Iterable[str | os.PathLike[str]]) -> None:
    """Raise ImportError when one of the folders holds a real sgl_kernel or torchvision."""
    if found := find_real(folders):
        raise ImportError(
            "sglang-paste-cpu stands in for sgl_kernel and torchvision and cannot share an environment with "
            f"{', '.join(found)}: uninstall sglang-paste-cpu, or use a fresh virtual environment for the CPU set-up."
        )


def build_wheel(
    wheel_directory: str, config_settings: Mapping[str, str] | None = None, metadata_directory: str | None = None
) -> str:
    """PEP 517: build with setuptools, unless the interpreter's own environment holds the real packages."""
    refuse_beside_real(site_folders())
    return str(_setuptools().build_wheel(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Mapping[str, str] | None = None) -> str:
    """PEP 517: build with setuptools."""
    return str(_setuptools().build_sdist(sdist_directory, config_settings))


def _setuptools() -> Any:
    # there while building, and not needed at run time
    return importlib.import_module("setuptools.build_meta")


if __name__ == "__main__":
    try:
        refuse_beside_real(site_folders())
    except ImportError as refusal:
        sys.exit(str(refusal))
