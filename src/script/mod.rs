//! Runs JavaScript in QuickJS, fenced in: bounded memory, stack and time, no files but those given, no network.
//!
//! [`Sandbox`] runs files and calls functions; values cross the border as JSON. [`outline`] reads what a text shows
//! without running it. This room knows nothing of what the scripts are for.

mod condition;
mod modules;
pub mod outline;
mod sandbox;
mod tokens;

use std::fmt;
use std::time::Duration;

pub use condition::condition;
pub use sandbox::{Sandbox, on_own_stack, spawn_on_own_stack};
pub use tokens::Position;

/// What a script may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For one file, or one call.
    pub time: Duration,
    /// Bytes, of all files together.
    pub memory: usize,
    /// Bytes.
    pub stack: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(15), memory: 256 << 20, stack: 1 << 20 }
    }
}

/// The files that scripts can see.
pub trait Files {
    /// The name of the file that `from` means by `specifier`, or why there is none.
    ///
    /// # Errors
    /// What to tell the author.
    fn resolve(&self, from: &str, specifier: &str) -> Result<String, String>;

    /// The text of a file.
    fn text(&self, name: &str) -> Option<&str>;
}

/// Why a script did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind of end it was.
    pub kind: FaultKind,
    /// In words, without the place.
    pub message: String,
    /// The innermost place in a file of the author's.
    pub place: Option<Place>,
}

/// A place in a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// Where in it.
    pub at: Position,
}

/// How a script ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The text is not JavaScript.
    Syntax,
    /// It threw something.
    Thrown,
    /// An import names nothing that scripts can see.
    Import,
    /// It ran for too long.
    Time,
    /// It used too much memory.
    Memory,
    /// It called too deep.
    Stack,
    /// It waits for what never comes.
    Pending,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.at.line, self.at.column)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
