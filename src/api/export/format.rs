//! The formats of answers, and which of them a client accepts.

use super::super::accept::weighted;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Format {
    /// The whole answer as one object.
    Json,
    /// A JSON object a row.
    Lines,
    /// RFC 4180, with a header.
    Csv,
    /// A stream of Arrow record batches.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Each with its names; the first is that of answers. Of equally welcome ones the first wins.
const FORMATS: &[(Format, &[&str])] = &[
    (Format::Json, &["application/json"]),
    (Format::Lines, &["application/x-ndjson", "application/ndjson", "application/jsonl"]),
    (Format::Csv, &["text/csv"]),
    (Format::Arrow, &["application/vnd.apache.arrow.stream"]),
    (Format::Parquet, &["application/vnd.apache.parquet", "application/x-parquet"]),
];

impl Format {
    /// The format that an `Accept` header likes best; none when it takes none of them.
    pub(super) fn accepted(header: &str) -> Option<Self> {
        let listed = weighted(header);
        if listed.is_empty() {
            return Some(Self::Json);
        }
        let weight_of = |name: &str| {
            let group = name.split('/').next().unwrap_or_default();
            // The narrowest range that holds the name decides.
            let ranges = [name.to_owned(), format!("{group}/*"), "*/*".to_owned()];
            let find = |range: &String| listed.iter().find(|(known, _)| known == range).map(|(_, weight)| *weight);
            ranges.iter().find_map(find).unwrap_or(0)
        };
        let offers = FORMATS.iter().map(|(format, names)| (names.iter().map(|name| weight_of(name)).max(), *format));
        let best = offers.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
        (best.0 > Some(0)).then_some(best.1)
    }

    /// The content type of answers.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Json | Self::Lines | Self::Arrow | Self::Parquet => {
                let names = FORMATS.iter().find(|(format, _)| *format == self).map(|(_, names)| *names);
                names.and_then(|names| names.first()).copied().unwrap_or("application/octet-stream")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_welcome_format_is_taken() {
        for (header, expected) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("application/*", Some(Format::Json)),
            ("text/*", Some(Format::Csv)),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Format::Json)),
            ("application/json, text/plain, */*", Some(Format::Json)),
            ("text/csv", Some(Format::Csv)),
            ("TEXT/CSV; header=present", Some(Format::Csv)),
            ("application/json;q=0.5, text/csv;q=0.9, application/vnd.apache.parquet;q=0.8", Some(Format::Csv)),
            ("application/json, text/csv", Some(Format::Json)),
            ("application/jsonl", Some(Format::Lines)),
            ("application/x-ndjson", Some(Format::Lines)),
            ("application/vnd.apache.arrow.stream, */*;q=0.1", Some(Format::Arrow)),
            ("application/x-parquet", Some(Format::Parquet)),
            ("*/*, application/json;q=0, application/x-ndjson;q=0.1", Some(Format::Lines)),
            ("*/*;q=0.5, application/json;q=0.1, application/vnd.apache.parquet", Some(Format::Parquet)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("*/*;q=0", None),
        ] {
            assert_eq!(Format::accepted(header), expected, "{header}");
        }
    }
}
