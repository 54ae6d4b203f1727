"""Bubblewrap: what a tool on this machine can see, and that it really cannot see more."""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

import sglang_paste
from sglang_paste.config import LocalTool
from sglang_paste.errors import ConfigError
from sglang_paste.execute.secrets import expand

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
SETTINGS = (
    "alternatives",
    "ca-certificates",
    "fonts",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "pki",
    "protocols",
    "services",
    "ssl",
    "timezone",
)
NETWORK_SETTINGS = ("gai.conf", "hosts", "resolv.conf")
SCRATCH = "/tmp"  # noqa: S108
FILE_LIMIT = 1024**3


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandboxed program may see and use. Paths are the same inside as outside."""

    workspace: str | None = None
    writable: bool = False
    readable: tuple[str, ...] = ()
    network: bool = False
    memory_limit: int = 2 * 1024**3
    processes: int = 64
    cpu_s: int | None = None

    @classmethod
    def of(cls, tool: LocalTool, *more: str) -> "Confinement":
        """What the operator grants the tool; `more` is readable as well."""
        return cls(
            workspace=tool.workspace,
            writable=tool.effect == "write",
            readable=(*tool.readable, *more),
            network=tool.network,
            memory_limit=tool.memory_limit,
            processes=tool.processes,
        )


def wrap(argv: list[str], grant: Confinement) -> list[str]:
    """`argv` inside a sandbox; raises ConfigError where bubblewrap or prlimit is not installed."""
    command = [installed("bwrap", "bubblewrap"), "--unshare-all", "--unshare-user", "--die-with-parent"]
    if grant.network:
        command.append("--share-net")
    command += ["--cap-drop", "ALL", *_system(), *_settings(grant), "--proc", "/proc", "--dev", "/dev"]
    scratch = ["--size", str(max(grant.memory_limit // 2, 1)), "--tmpfs"]
    command += [*scratch, "/dev/shm", *scratch, SCRATCH]  # noqa: S108
    command += [
        *_granted(grant, argv[0]),
        "--remount-ro",
        "/dev",
        "--remount-ro",
        "/",
        "--chdir",
        grant.workspace or SCRATCH,
        "--",
    ]
    return [*command, *_limits(grant), *argv]


def environment_of(tool: LocalTool, where: str) -> dict[str, str]:
    """The whole environment of a tool's run: what it declares, and the little that programs need."""
    return {
        "PATH": search_path(),
        "LANG": "C.UTF-8",
        "HOME": SCRATCH,
        **expand(tool.environment, where),
    }


def find_program(name: str, folder: str | Path, path: str | None = None) -> str | None:
    """The absolute path of a program: looked up on `path` (the sandbox's own by default), or relative to `folder`."""
    if os.sep in name:
        candidate = Path(folder, name).expanduser()
        return str(candidate) if candidate.is_file() and os.access(candidate, os.X_OK) else None
    return shutil.which(name, path=path or search_path())


def search_path() -> str:
    """Where programs are looked for: this Python environment, then the system."""
    standard = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
    return ":".join(dict.fromkeys((os.path.join(sys.prefix, "bin"), *standard)))


def installed(program: str, package: str) -> str:
    """The path of a program that the sandbox is made of; raises ConfigError."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/bin")
    if path is None:
        raise ConfigError(f"{program} is not installed, so there is no sandbox; install the package {package}")
    return path


def python_roots() -> tuple[str, ...]:
    """The folders that this interpreter and its packages, this one included, are read from."""
    roots = [sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), os.path.dirname(sglang_paste.__file__)]
    link = Path(sys.executable)
    while link.is_symlink():
        link = Path(os.path.normpath(link.parent / link.readlink()))
        roots.append(str(link.parent.parent))
    return tuple(root for root in dict.fromkeys(roots) if root not in ("/", "/usr"))


def _system() -> list[str]:
    arguments: list[str] = []
    for path in SYSTEM:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    return arguments


def _settings(grant: Confinement) -> list[str]:
    names = (*SETTINGS, *NETWORK_SETTINGS) if grant.network else SETTINGS
    return [part for name in names for part in ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")]


def _granted(grant: Confinement, program: str) -> list[str]:
    """Mounts, outer folders first, so that a folder inside another keeps its own rights."""
    mounts = {path: "--ro-bind" for path in (*python_roots(), *grant.readable) if not _within(path, SYSTEM)}
    if grant.workspace is not None:
        mounts[grant.workspace] = "--bind" if grant.writable else "--ro-bind"
    if not _within(program, (*SYSTEM, *mounts)):
        mounts[program] = "--ro-bind"
    paths = sorted(mounts, key=lambda path: path.rstrip("/").count("/"))
    return [part for path in paths for part in (mounts[path], path, path)]


def _within(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _limits(grant: Confinement) -> list[str]:
    limits = [
        installed("prlimit", "util-linux"),
        f"--data={grant.memory_limit}",
        f"--nproc={grant.processes}",
        f"--fsize={FILE_LIMIT}",
        "--core=0",
    ]
    return [*limits, *([f"--cpu={grant.cpu_s}"] if grant.cpu_s is not None else []), "--"]
