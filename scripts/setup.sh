#!/usr/bin/env bash
# The CPU set-up, for the other scripts to source: .venv with locked packages, the stand-ins, the models, bubblewrap.
# What is already there is left alone, so a second run takes seconds. The output of installers is in .cache/setup.log.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
LOG=$ROOT/.cache/setup.log
MODELS=$ROOT/.cache/models

step() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

# quietly COMMAND...: run it with its output in the log.
quietly() { "$@" >>"$LOG" 2>&1; }

# or_show SENTENCE: after a failure, the end of the log and the sentence.
or_show() {
    tail -n 15 "$LOG" >&2
    die "$1 The whole output is in $LOG."
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13; do
        if supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "No Python from 3.11 to 3.13 was found (python3 is $(python3 --version 2>&1)): install one, or name it in PYTHON."
}

check_machine() {
    local libc
    [[ $(uname -sm) == "Linux x86_64" ]] || die "The CPU set-up is locked for Linux on x86-64, and this is $(uname -sm)."
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo "no glibc")
    [[ $(printf '%s\n' "glibc 2.34" "$libc" | sort -V | head -n 1) == "glibc 2.34" ]] ||
        die "SGLang's packages need glibc 2.34 or later, and this machine has $libc: use a newer distribution."
}

# have COMMAND PACKAGE: whether the command is there, if need be after installing its Debian package.
have() {
    if command -v "$1" >/dev/null; then return; fi
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then return 1; fi
    step "Debian package $2"
    apt_get "$2"
}

apt_get() {
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1" ||
        { quietly apt-get update && quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$1"; }
}

make_venv() {
    local python version
    if [[ -x $VENV/bin/python ]]; then
        supported "$VENV/bin/python" || die "$VENV has no working Python from 3.11 to 3.13: remove that folder and start again."
    else
        python=$(find_python)
        step "Virtual environment with $("$python" --version)"
        if ! quietly "$python" -m venv "$VENV"; then
            rm -rf "$VENV"
            version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
            [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && apt_get "$version-venv" && quietly "$python" -m venv "$VENV" ||
                or_show "$python cannot make a virtual environment: install its venv module (on Debian: apt-get install $version-venv)."
        fi
    fi
    "$VENV/bin/python" "$ROOT/packages/cpu/sglang_paste_cpu.py" || die "The CPU set-up changes nothing in $VENV."
}

# once NAME PATH... -- COMMAND...: run the command, unless it succeeded before with the same content of the paths.
once() {
    local stamp=$VENV/.$1.stamp paths=() content
    shift
    while [[ $1 != -- ]]; do paths+=("$1") && shift; done
    shift
    content=$(find "${paths[@]}" -type f -not -path '*/build/*' -not -path '*.egg-info/*' -not -name '*.pyc' -print0 |
        sort -z | xargs -0 sha256sum)
    if [[ -f $stamp && $(<"$stamp") == "$content" ]]; then return; fi
    "$@"
    printf '%s\n' "$content" >"$stamp"
}

# pip_setting NAME: the value that pip's own configuration gives, empty for none.
pip_setting() {
    local section
    for section in :env: install global; do
        "$VENV/bin/python" -m pip config list 2>/dev/null | sed -n "s/^$section\.$1='\(.*\)'$/\1/p" | grep . && return
    done
    true
}

# uv reads none of pip's configuration, so the sources of packages are passed on.
uv_sources() {
    local value
    UV_SOURCES=(--index-strategy unsafe-best-match)
    for value in $(pip_setting index-url); do UV_SOURCES+=(--default-index "$value"); done
    for value in $(pip_setting extra-index-url); do UV_SOURCES+=(--index "$value"); done
    for value in $(pip_setting find-links); do UV_SOURCES+=(--find-links "$value"); done
    value=$(pip_setting cert)
    if [[ -n $value ]]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$value}; fi
}

# install ARGUMENT...: with uv, which is fast, or else with pip. Never anything's dependencies: the locks are complete.
install() {
    quietly "$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps --compile-bytecode "${UV_SOURCES[@]}" "$@" ||
        quietly "$VENV/bin/python" -m pip install --disable-pip-version-check --no-deps "$@"
}

install_locked() {
    local lock
    quietly "$VENV/bin/python" -m pip install --disable-pip-version-check --no-deps --require-hashes -r "$ROOT/requirements/uv.txt" ||
        step "uv is not to be had: pip is used, which takes longer"
    uv_sources
    step "torch, the CPU build"
    if ! install --require-hashes -r "$ROOT/requirements/torch-cpu.txt"; then
        step "torch, the default build with its CUDA libraries: no index offers the CPU build (about 3 GB to load)"
        install --require-hashes -r "$ROOT/requirements/torch.txt" || or_show "torch could not be installed."
    fi
    for lock in serve dev; do
        step "Locked packages: $lock"
        install --require-hashes -r "$ROOT/requirements/$lock.txt" || or_show "The packages of requirements/$lock.txt could not be installed."
    done
}

install_local() {
    step "The stand-ins and this package"
    uv_sources
    # setuptools would pack again what an earlier build left here
    rm -rf "$ROOT/packages/cpu/build"
    install --no-build-isolation --force-reinstall "$ROOT/packages/cpu" || or_show "The stand-ins could not be installed."
    install --no-build-isolation --editable "$ROOT" || or_show "This package could not be installed."
}

make_models() {
    step "The models"
    "$VENV/bin/python" -m sglang_paste.patches.cpu.convert "$MODELS/smollm2-135m"
    "$VENV/bin/python" -m sglang_paste.patches.cpu.convert "$MODELS/tiny" --tiny
}

set_up() {
    mkdir -p "$ROOT/.cache"
    exec 9>"$ROOT/.cache/setup.lock"
    flock 9
    : >"$LOG"
    check_machine
    make_venv
    once locked "$ROOT"/requirements -- install_locked
    once local "$ROOT/pyproject.toml" "$ROOT/packages/cpu" -- install_local
    have bwrap bubblewrap ||
        die "bwrap is missing, in which tools are run: install bubblewrap as root (on Debian: apt-get install bubblewrap)."
    have g++ g++ || step "No C++ compiler (on Debian: apt-get install g++): decoding is slower, and NGRAM speculation fails"
    make_models
    exec 9>&-
}

export PATH=$VENV/bin:$PATH VIRTUAL_ENV=$VENV SGLANG_USE_CPU_ENGINE=1 HF_HUB_OFFLINE=1
set_up
