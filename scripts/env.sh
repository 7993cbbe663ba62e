# Sourced by the other scripts and the Makefile's recipes, from the root of the checkout: one environment
# for every step. Steps with different compilers or flags would rebuild each other's dependencies.

# A fresh machine has cargo here but not yet on the PATH.
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
export PATH

# clang++ compiles RocksDB's headers 20-35 % faster than g++ (CONTRIBUTING.md, "Build times").
export CC=clang CXX=clang++

QUARRY_CACHE="${QUARRY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quarry}"
if ! mkdir -p "$QUARRY_CACHE" 2>/dev/null; then
    echo "quarry: cannot write to $QUARRY_CACHE; building without a cache" >&2
    QUARRY_CACHE="$PWD/target/cache"
    mkdir -p "$QUARRY_CACHE"
fi
export QUARRY_CACHE

# CI starts from a clean checkout each time: its dependencies are kept in the cache folder. The lock on file
# descriptor 9 lasts as long as the sourcing shell; a second run at the same time builds in its own target/.
if [ "${CI:-}" = true ]; then
    export CARGO_INCREMENTAL=0 CARGO_TERM_PROGRESS_WHEN=never
    if [ -z "${CARGO_TARGET_DIR:-}" ] && command -v flock >/dev/null; then
        exec 9>"$QUARRY_CACHE/target.lock"
        if flock -n 9; then
            CARGO_TARGET_DIR="$QUARRY_CACHE/target"
            export CARGO_TARGET_DIR
        else
            exec 9>&-
            echo "quarry: another run holds $QUARRY_CACHE/target; building in target/" >&2
        fi
    fi
fi

# The archive of RocksDB, built once for a machine; without it cargo builds the bundled sources, to the same effect.
if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
    if quarry_rocksdb=$(sh scripts/rocksdb.sh); then
        export ROCKSDB_LIB_DIR="$quarry_rocksdb" ROCKSDB_STATIC=1
    else
        echo "quarry: no cached RocksDB archive; cargo builds the bundled sources" >&2
    fi
fi
