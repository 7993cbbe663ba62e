#!/bin/sh
# Makes sure that what cargo cannot fetch is there: clang with its C++ library (RocksDB), libclang (its bindings),
# python3 with venv (the checks against another SQL engine and with orchestrators), the Rust toolchain's own parts; with
# the argument `tests` also Node.js with npm (the checks with JavaScript clients).
# Installs what is missing where it may; otherwise says in one line what to install and fails.
set -eu

PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"

has_cxx() {
    command -v clang >/dev/null && command -v clang++ >/dev/null &&
        echo '#include <string>' | clang++ -x c++ -fsyntax-only - 2>/dev/null
}

# Where bindgen looks, in short: LIBCLANG_PATH, the linker's cache, the folders of Debian's and Fedora's packages.
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null || true; } | grep -q 'libclang[-.0-9]*\.so' && return 0
    for file in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib*/libclang*.so* /usr/lib/*-linux-gnu/libclang*.so* \
        /usr/local/lib/libclang*.so* /opt/homebrew/opt/llvm/lib/libclang.dylib \
        /Library/Developer/CommandLineTools/usr/lib/libclang.dylib; do
        [ -e "$file" ] && return 0
    done
    return 1
}

has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

has_node() { ! [ "${1:-}" = tests ] || { command -v node && command -v npm; } >/dev/null; }

wanted=${1:-}
missing() {
    has_node "$wanted" || printf 'nodejs npm '
    has_cxx || printf 'clang '
    has_libclang || printf 'libclang-dev '
    has_venv || printf 'python3-venv '
}

packages=$(missing)
if [ -n "$packages" ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "quarry: installing $packages" >&2
        log=$(mktemp)
        # shellcheck disable=SC2086 -- a list of words on purpose
        if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages
        } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
        fi
        rm -f "$log"
        packages=$(missing)
    fi
    if [ -n "$packages" ]; then
        echo "quarry: please install these first (Debian's names): apt-get install ${packages% }" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "quarry: please install Rust first: https://rustup.rs" >&2
    exit 1
fi
if command -v rustup >/dev/null; then
    rustup show active-toolchain >/dev/null 2>&1 || rustup default stable
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        rustup component add rustfmt clippy
    fi
fi
