"""Compiles kernels for this machine on first use and keeps the library in the user's cache. No compiler: None."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Sums are rounded as they are written: no operation is fused that the source does not fuse.
FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
TIME_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Build:
    """A source file, and what its compiler is told beside `FLAGS`."""

    source: Path
    flags: tuple[str, ...] = ()


# By torch's CPU capability, which decides in what order it adds.
BUILDS = {
    "AVX2": Build(Path(__file__).with_name("kernels_avx2.c"), ("-mavx2", "-mfma", "-mtune=native")),
    "AVX512": Build(Path(__file__).with_name("kernels_avx512.c"), ("-march=native", "-mprefer-vector-width=512")),
}
ATTENTION = {"AVX2": Build(Path(__file__).with_name("attention_avx2.c"), (*BUILDS["AVX2"].flags, "-lm"))}
# The same where torch has another order, in which a row's bits depend on how many there are.
ROWWISE = {"AVX512": ATTENTION["AVX2"]}


def load_library(build: Build) -> ctypes.CDLL | None:
    """The compiled library; None, with the reason in the log, when this machine cannot compile it."""
    compiler = find_compiler()
    if compiler is None:
        logger.warning(
            "No C compiler (cc, gcc, clang) was found: CPU kernels stay torch's; install gcc to speed them up."
        )
        return None
    try:
        path = cache_folder() / f"kernels-{_fingerprint(build, compiler)}.so"
        if not path.exists():
            _compile(compiler, build, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        logger.warning(
            "%s could not be compiled with %s (%s): CPU kernels stay torch's.", build.source, compiler, *detail
        )
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


def _compile(compiler: str, build: Build, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        _run(compiler, *FLAGS, *build.flags, "-o", str(built), str(build.source))
        built.rename(path)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT_S)


def _fingerprint(build: Build, compiler: str) -> str:
    """Changes with the source, the compiler and the processor, since the code is built for this one."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    binary = Path(compiler).resolve().stat()
    headers = [path.read_bytes() for path in sorted(build.source.parent.glob("*.h"))]
    parts: tuple[bytes | str, ...] = (
        build.source.read_bytes(),
        *headers,
        repr(FLAGS + build.flags),
        compiler,
        str(binary.st_mtime_ns),
        features,
    )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]
