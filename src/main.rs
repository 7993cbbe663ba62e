//! The `quarry` binary: parses flags and calls the library.

use std::process::ExitCode;

/// Frees and takes small blocks faster than the system's, across threads too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quarry::cli::main()
}
