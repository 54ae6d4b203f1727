"""Compiles kernels.c for this machine on first use and keeps the library in the user's cache. No compiler: None."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.c")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
# Sums are rounded as they are written: no operation is fused that the source does not fuse.
FLAGS = ("-O3", "-march=native", *WIDE, "-ffp-contract=off", "-shared", "-fPIC")
TIME_LIMIT_S = 120


def load_library(source: Path = SOURCE) -> ctypes.CDLL | None:
    """The compiled library; None, with the reason in the log, when this machine cannot compile it."""
    compiler = find_compiler()
    if compiler is None:
        logger.warning(
            "No C compiler (cc, gcc, clang) was found: CPU kernels stay torch's; install gcc to speed them up."
        )
        return None
    try:
        path = cache_folder() / f"kernels-{_fingerprint(source, compiler)}.so"
        if not path.exists():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        logger.warning("%s could not be compiled with %s (%s): CPU kernels stay torch's.", source, compiler, *detail)
        return None


def find_compiler() -> str | None:
    """The path of the compiler that `CC` names, or of the first usual one."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where libraries are kept; only the user may write there, since what lies there is loaded."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sglang-paste"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise OSError(f"{folder} can be written by others; make it yours alone (chmod 700)")
    return folder


def _compile(compiler: str, source: Path, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        _run(compiler, *FLAGS, "-o", str(built), str(source))
        built.rename(path)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT_S)


def _fingerprint(source: Path, compiler: str) -> str:
    """Changes with the source, the compiler and the processor, since the code is built for this one."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    binary = Path(compiler).resolve().stat()
    parts = (source.read_bytes(), repr(FLAGS), compiler, str(binary.st_mtime_ns), features)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]
