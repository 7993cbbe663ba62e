#!/bin/sh
# Prints the folder that holds librocksdb.a for the locked crate version, compiler and features, building the
# archive the first time. RocksDB is more than a third of a clean build; built once for a machine it costs nothing.
# The archive is only ever paired with the very crate version that made it: the version is part of the key.
#
# usage: rocksdb.sh [--key]      (from the root of the checkout, after scripts/env.sh; --key prints the key only)
# Fails, with a notice on stderr, when the archive cannot be had; the caller then builds the bundled sources.
set -eu

: "${QUARRY_CACHE:?run through scripts/env.sh}" "${CXX:=clang++}"

version=$(awk '/^name = "librocksdb-sys"$/ { getline; gsub(/version = |"/, ""); print; exit }' Cargo.lock)
features=$(sed -n 's/^rocksdb = .*features = \[\([^]]*\)\].*/\1/p' Cargo.toml | tr -d '" ' | tr ',' '+')
compiler=$("$CXX" --version | head -n 1)
if [ -z "$version" ] || [ -z "$features" ] || [ -z "$compiler" ]; then
    echo "quarry: cannot tell the version, features or compiler of RocksDB" >&2
    exit 1
fi
key=$(printf '%s-%s-%s-%s' "$version" "$features" "$compiler" "$(uname -m)" | tr -c 'A-Za-z0-9.+-' '_')
if [ "${1:-}" = --key ]; then
    echo "rocksdb-$key"
    exit 0
fi

home="$QUARRY_CACHE/rocksdb-$key"
archive="$home/librocksdb.a"
if [ -s "$archive" ]; then
    echo "$home"
    exit 0
fi

# One builder at a time; whoever waited finds the archive made. The lock ends with this process, however it ends.
if command -v flock >/dev/null; then
    exec 8>"$QUARRY_CACHE/rocksdb.lock"
    flock 8
    if [ -s "$archive" ]; then
        echo "$home"
        exit 0
    fi
fi

echo "quarry: building the RocksDB archive once for this machine (several minutes) …" >&2
build="$QUARRY_CACHE/rocksdb-build"
log="$QUARRY_CACHE/rocksdb-build.log"
if ! env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC \
    cargo build --release --locked -p librocksdb-sys --target-dir "$build" >"$log" 2>&1 8>&- 9>&-; then
    tail -n 20 "$log" >&2
    echo "quarry: building the RocksDB archive failed; the whole log is $log" >&2
    exit 1
fi
made=$(ls -t "$build"/release/build/librocksdb-sys-*/out/librocksdb.a 2>/dev/null | head -n 1)
if [ -z "$made" ]; then
    echo "quarry: cargo left no librocksdb.a under $build" >&2
    exit 1
fi

# Under a temporary name first, then renamed: an interrupted copy never bears the name that is looked for.
mkdir -p "$home"
temporary="$home/.librocksdb.a.$$"
cp "$made" "$temporary"
mv "$temporary" "$archive"
rm -rf "$build"
echo "$home"
