#!/bin/sh
# Everything that CI runs, in one shell, so that the lock of scripts/env.sh lasts for the whole run.
# One profile for all of it: the dependencies are compiled once. Cheap checks first; clippy last, because its
# pass over the dependencies serves nothing else.
set -eu

step=setup
started=$(date +%s)
finish() {
    status=$?
    took=$(($(date +%s) - started))
    if [ "$status" -eq 0 ]; then
        echo "== make test: PASSED in ${took} s"
    else
        echo "== make test: FAILED in step '$step' after ${took} s (status $status)"
    fi
}
trap finish EXIT

begin() {
    step=$1
    echo "== $step ($(($(date +%s) - started)) s)"
}

. scripts/env.sh

begin format
cargo fmt --all --check

if [ "${CARGO_TARGET_DIR:-}" = "$QUARRY_CACHE/target" ]; then
    # Dependencies stay; our own crates are always built from the sources at hand, whatever their times say.
    cargo clean --quiet --release --locked -p quarry -p quarry-storage
fi

begin build
cargo build --release --locked --workspace --all-targets

begin tests
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --release --locked --workspace
else
    cargo test --release --locked --workspace --lib --bins --tests
fi

begin benches
cargo bench --locked -- --test

begin "doc tests"
cargo test --release --locked --workspace --doc

begin documentation
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps

for check in tests/checks/*.sh; do
    if [ -x "$check" ]; then
        begin "$check"
        "$check"
    fi
done

begin clippy
cargo clippy --release --locked --workspace --all-targets -- -D warnings

step=end
