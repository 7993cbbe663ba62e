//! Faults and warnings of model files, for people.

use std::fmt;

use super::cube::Location;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The model cannot be used.
    Error,
    /// The model works; something in it has no effect or will fail when asked for.
    Warning,
}

/// One fault: where, at which member, what is wrong, how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub location: Location,
    /// `cube` or `cube.member`, when known.
    pub member: Option<String>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    /// `model/orders.yml:12:7: error: orders.total: unknown key 'tpye'` and the hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Location { file, line, column } = &self.location;
        write!(f, "{}:{line}:{column}: {severity}: ", file.display())?;
        if let Some(member) = &self.member {
            write!(f, "{member}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}
