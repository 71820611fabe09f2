# Sourced by quickstart.sh, test.sh and .ci/run: changes to the project folder, and installs into .venv what they need.

set -euo pipefail
export PIP_NO_COMPILE=1  # the few modules that are used are compiled when they are first imported
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "needs Python 3.10, 3.11 or 3.12; name one: PYTHON=/path/to/python3.11 bash $0"
}

# The Debian packages of what cannot come from the package index: a C compiler and headers (evdev and egl_probe are
# compiled on installation), and an OpenGL that renders without a screen.
missing_packages() {
    local python="$1"
    command -v gcc >/dev/null || echo gcc
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        echo "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
    "$python" -c 'import ensurepip' 2>/dev/null ||
        echo "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    [ -e /usr/include/linux/input.h ] || echo linux-libc-dev
    "$python" -c 'import ctypes; ctypes.CDLL("libEGL.so.1")' 2>/dev/null || echo libegl1 libgl1-mesa-dri
    "$python" -c 'import ctypes; ctypes.CDLL("libGL.so.1")' 2>/dev/null || echo libgl1
}

install_system_packages() {
    local missing
    missing="$(missing_packages "$1" | xargs)"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || fail "missing on this machine, by their Debian names: $missing"
    [ "$(id -u)" = 0 ] || fail "install first: sudo apt-get update && sudo apt-get install -y $missing"
    echo "installing with apt-get: $missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
}

installation_sources() {
    cat setup.py pyproject.toml constraints.txt robomimic_frozen.pth robomimic_frozen/__init__.py
}

is_installed() {
    installation_sources | cmp -s - ".venv/.installed-$1"
}

# Makes sure that .venv holds this package with one of its extras: "offline" for the quickstart, "dev", which has all of that, for
# tests. A stamp for each says what it was installed from.
install_environment() {
    local extra="$1" python
    if is_installed "$extra" || is_installed dev; then
        return
    fi
    python="$(find_python)"
    install_system_packages "$python"
    echo "installing into .venv (torch is large; this takes a minute or more)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # The pip that Python 3.10 brings along does not come to an end with what the tests need.
    .venv/bin/python -m pip install -q --upgrade pip
    # robomimic's egl_probe is compiled with a cmake older than 4, which pip's build isolation would hide.
    .venv/bin/python -m pip install -q "cmake<4" setuptools wheel
    PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pip install -q -c constraints.txt --no-build-isolation egl_probe
    .venv/bin/python -m pip install -q -c constraints.txt -e ".[$extra]"
    installation_sources > ".venv/.installed-$extra"
}
