//! What the engine could not do, in words for clients.

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

/// What the engine could not do. The text is for clients; it never names internals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The statement does not parse or plan: an unknown table or column, a type error.
    #[error("{0}")]
    Plan(String),
    /// The statement failed while running: a cast, a division by zero, an unreadable file.
    #[error("{0}")]
    Execution(String),
    /// The statement needs more memory than the engine may use.
    #[error("{0}")]
    ResourcesExhausted(String),
}

/// A file of a partition cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("partition file \"{file}\" cannot be read ({cause}): rebuild the partition")]
pub(super) struct PartitionFileError {
    /// Name of the file, without folders.
    pub(super) file: String,
    /// What happened.
    pub(super) cause: String,
}

/// What the engine was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Parsing and planning.
    Planning,
    /// Producing rows.
    Running,
}

impl EngineError {
    pub(super) fn from_datafusion(error: &DataFusionError, phase: Phase) -> Self {
        let root = error.find_root();
        match root {
            // A table of ours has said it already.
            DataFusionError::External(own) if own.is::<Self>() => {
                own.downcast_ref::<Self>().cloned().unwrap_or_else(|| Self::Execution(own.to_string()))
            }
            DataFusionError::ResourcesExhausted(_) => Self::ResourcesExhausted(
                "the statement needs more memory than the engine may use; ask for fewer rows or groups, or raise the \
                 memory limit"
                    .to_owned(),
            ),
            DataFusionError::ArrowError(arrow, _) => Self::Execution(arrow_text(arrow)),
            DataFusionError::SQL(parser, _) => {
                let text = parser.to_string();
                Self::Plan(format!("syntax error: {}", text.trim_start_matches("sql parser error: ")))
            }
            DataFusionError::ParquetError(_)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::IoError(_)
            | DataFusionError::ExecutionJoin(_)
            | DataFusionError::External(_) => Self::Execution(file_text(root)),
            DataFusionError::Internal(text) => {
                tracing::error!(error = %text, "the query engine failed internally");
                Self::in_phase(phase, format!("the query engine failed: {}", first_line(text)))
            }
            DataFusionError::NotImplemented(text) => Self::Plan(format!("not supported: {text}")),
            DataFusionError::Plan(text) => Self::Plan(plan_text(text)),
            DataFusionError::SchemaError(schema, _) => Self::Plan(schema.to_string().replace('\n', " ")),
            other => Self::in_phase(phase, first_line(&other.message()).to_owned()),
        }
    }

    fn in_phase(phase: Phase, text: String) -> Self {
        match phase {
            Phase::Planning => Self::Plan(text),
            Phase::Running => Self::Execution(text),
        }
    }
}

/// Whether reading a file failed, as opposed to computing with what it holds.
pub(super) fn reading_failed(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::External(_) => true,
        DataFusionError::ArrowError(arrow, _) => matches!(
            arrow.as_ref(),
            ArrowError::ParquetError(_) | ArrowError::IoError(..) | ArrowError::ExternalError(_)
        ),
        _ => false,
    }
}

fn arrow_text(error: &ArrowError) -> String {
    match error {
        ArrowError::DivideByZero => "division by zero".to_owned(),
        ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::InvalidArgumentError(text)
        | ArrowError::CsvError(text)
        | ArrowError::JsonError(text) => text.clone(),
        // Its text shows decimals without their point.
        ArrowError::ArithmeticOverflow(_) => "numeric value out of range".to_owned(),
        other => first_line(&other.to_string()).to_owned(),
    }
}

fn file_text(error: &DataFusionError) -> String {
    format!("a data file cannot be read: {}", first_line(&error.message()))
}

fn plan_text(text: &str) -> String {
    let missing = text.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found"));
    if let Some(name) = missing {
        return missing_relation(name.strip_prefix("quarry.").unwrap_or(name), "data");
    }
    let text = first_line(text);
    // A function's own words about its arguments come wrapped twice.
    let text = text.split_once("user-defined coercion failed with: ").map_or(text, |(_, own)| own);
    let text =
        text.split_once(" No function matches the given name").map_or(text, |(own, _)| own.trim_end_matches('.'));
    text.trim_start_matches("Error during planning: ").to_owned()
}

/// The text for a table that is not there.
pub(crate) fn missing_relation(name: &str, folder: &str) -> String {
    format!("relation \"{name}\" does not exist; tables come from the files of the {folder}/ folder")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
