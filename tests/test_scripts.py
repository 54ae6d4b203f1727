"""The set-up script's own logic, in bash, without installing anything."""

import os
import re
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "scripts" / "setup.sh").read_text()
SCRIPTS = [ROOT / "scripts" / "setup.sh", ROOT / "scripts" / "test", ROOT / ".ci" / "run"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def bash(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code after the functions of the set-up, in an empty checkout, with nothing set up."""
    functions = SETUP.rsplit("export PATH=", 1)[0]
    (tmp_path / "scripts").mkdir(exist_ok=True)
    script = tmp_path / "scripts" / "code.sh"
    script.write_text(f"{functions}\nmkdir -p $ROOT/.cache $VENV; : >$LOG\n{code}\n")
    return subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=False, env=os.environ | environment, timeout=60
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_reads_it(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)


def test_a_step_runs_once_until_its_files_change(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("a==1")
    code = 'once name "$ROOT/lock.txt" -- echo ran'
    assert bash(tmp_path, code).stdout == "ran\n"
    assert bash(tmp_path, code).stdout == ""
    (tmp_path / "lock.txt").write_text("a==2")
    assert bash(tmp_path, code).stdout == "ran\n"


def test_a_step_that_failed_runs_again(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("a==1")
    assert bash(tmp_path, 'once name "$ROOT/lock.txt" -- false; echo not reached').stdout == ""
    assert bash(tmp_path, 'once name "$ROOT/lock.txt" -- echo ran').stdout == "ran\n"


def fake_python(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    major, minor = version.split(".")
    answer = 0 if (3, 11) <= (int(major), int(minor)) <= (3, 13) else 1
    program = folder / name
    program.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo Python {version}; else exit {answer}; fi\n')
    program.chmod(0o755)


def test_a_supported_python_is_found_under_another_name(tmp_path: Path) -> None:
    fake_python(tmp_path / "bin", "python3", "3.9")
    fake_python(tmp_path / "bin", "python3.11", "3.14")
    fake_python(tmp_path / "bin", "python3.12", "3.12")
    run = bash(tmp_path, "find_python", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert run.stdout.strip() == str(tmp_path / "bin" / "python3.12")


def test_without_one_a_sentence_says_so(tmp_path: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        fake_python(tmp_path / "bin", name, "3.9")
    run = bash(tmp_path, "find_python", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert run.returncode == 1
    assert run.stderr == (
        "No Python from 3.11 to 3.13 was found (python3 is Python 3.9): install one, or name it in PYTHON.\n"
    )


def test_a_python_without_venv_is_named(tmp_path: Path) -> None:
    program = tmp_path / "python3.11"
    program.write_text('#!/bin/sh\ncase "$*" in *print*) echo python3.11;; *venv*) echo no ensurepip; exit 1;; esac\n')
    program.chmod(0o755)
    code = 'rmdir "$VENV"; id() { echo 1000; }; make_venv'
    run = bash(tmp_path, code, PYTHON=str(program))
    assert run.returncode == 1
    assert "no ensurepip" in run.stderr
    assert "apt-get install python3.11-venv" in run.stderr.splitlines()[-1]


def test_the_real_packages_stop_the_set_up(tmp_path: Path) -> None:
    venv.create(tmp_path / ".venv")
    (tmp_path / "packages").symlink_to(ROOT / "packages")
    assert bash(tmp_path, "make_venv; echo reached").stdout == "reached\n"
    site = next((tmp_path / ".venv" / "lib").glob("python3.*")) / "site-packages"
    (site / "sglang_kernel-0.4.10.dist-info").mkdir()
    run = bash(tmp_path, "make_venv; echo not reached")
    assert (run.returncode, run.stdout) == (1, "")
    assert "cannot share an environment with sglang_kernel 0.4.10" in run.stderr


def test_another_machine_is_refused(tmp_path: Path) -> None:
    run = bash(tmp_path, 'uname() { echo "Darwin arm64"; }; check_machine')
    assert (run.returncode, run.stdout) == (1, "")
    assert "this is Darwin arm64" in run.stderr
    run = bash(tmp_path, 'uname() { echo "Linux x86_64"; }; getconf() { echo "glibc 2.31"; }; check_machine')
    assert "this machine has glibc 2.31" in run.stderr
    fine = bash(tmp_path, 'uname() { echo "Linux x86_64"; }; getconf() { echo "glibc 2.41"; }; check_machine')
    assert fine.returncode == 0


def test_the_sources_in_pips_configuration_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(
        "#!/bin/sh\ncat <<'E'\n:env:.find-links='/links /more'\nglobal.find-links='/hidden'\n"
        "global.index-url='https://mirror.example/simple'\ninstall.extra-index-url='https://extra.example/simple'\nE\n"
    )
    python.chmod(0o755)
    run = bash(tmp_path, 'uv_sources; echo "${UV_SOURCES[*]}"')
    assert run.stdout.strip() == (
        "--index-strategy unsafe-best-match --default-index https://mirror.example/simple"
        " --index https://extra.example/simple --find-links /links --find-links /more"
    )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_locked_package_has_a_version_and_hashes(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9.-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry
    assert "://" not in lock.read_text()


def test_the_locks_agree_with_each_other() -> None:
    versions: dict[str, str] = {}
    for lock in LOCKS:
        if lock.name != "torch-cpu.txt":
            for name, version in re.findall(r"^([a-z0-9.-]+)==(\S+)", lock.read_text(), re.M):
                assert versions.setdefault(name, version) == version
