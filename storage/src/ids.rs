//! Identities. Those that a store issues have no public constructor.

use std::fmt;
use std::sync::Arc;

use crate::snapshot::Bounds;

/// One stored layout of one rollup in one time zone. The text is the caller's; a changed definition
/// must be another text. Letters, digits and `._@-` only, at most 200 bytes, as it names a folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(Arc<str>);

impl TableId {
    /// Wraps a caller's text; none when it breaks the rule above.
    pub fn new(text: &str) -> Option<Self> {
        let valid = !text.is_empty()
            && text.len() <= 200
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-'));
        valid.then(|| Self(Arc::from(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One partition of a table; sorts by table, then time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The table.
    pub table: TableId,
    /// The bucket, in the table's own local time; none for the one partition of an unpartitioned table.
    pub bucket: Option<Bounds>,
}

impl PartitionKey {
    /// Whether a moment belongs to both; one without bucket covers everything.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let bounds = |key: &Self| key.bucket.unwrap_or(Bounds { start: i64::MIN, end: i64::MAX });
        let (one, other) = (bounds(self), bounds(other));
        one.start < other.end && other.start < one.end
    }

    /// Where the partition sorts in its table: the start of its bucket, `i64::MIN` without one.
    pub(crate) fn start(&self) -> i64 {
        self.bucket.map_or(i64::MIN, |bucket| bucket.start)
    }
}

/// `orders.daily@UTC-0123 20240131`, for people.
impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, BucketName(self.bucket))
    }
}

/// Writes a bucket as its start, `20240131` or `20240131T063000.000001`, or as `all`.
/// No sign and no colon: it is a part of file names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BucketName(pub(crate) Option<Bounds>);

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: i64 = 1_000_000;
        const DAY: i64 = 86_400 * SECOND;
        let Some(Bounds { start, .. }) = self.0 else { return f.write_str("all") };
        let (year, month, day) = civil_date(start.div_euclid(DAY));
        let time = start.rem_euclid(DAY);
        if year < 0 {
            f.write_str("bc")?;
        }
        write!(f, "{:04}{month:02}{day:02}", year.unsigned_abs())?;
        if time != 0 {
            let seconds = time / SECOND;
            write!(f, "T{:02}{:02}{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        }
        if time % SECOND != 0 {
            write!(f, ".{:06}", time % SECOND)?;
        }
        Ok(())
    }
}

/// Year, month and day of a day number, where 0 is 1970-01-01, in the proleptic Gregorian calendar.
/// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Names a Parquet file; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub(crate) u64);

impl FileId {
    /// Reads the 16 hexadecimal digits that [`fmt::Display`] writes; leading zeros may be left out.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| valid).map(Self)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A state of the catalog; grows with every publish and never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub(crate) u64);

impl SnapshotId {
    /// The number, for cache keys and display.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// A job's token: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub(crate) Arc<str>);

impl JobId {
    /// Reads a token that a client sent. Any text is accepted; one that no store issued is simply unknown.
    pub fn from_token(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_are_safe_folder_names() {
        for text in ["a", "orders.daily@Europe_Berlin-0f", &"x".repeat(200)] {
            assert_eq!(TableId::new(text).map(|id| id.to_string()).as_deref(), Some(text));
        }
        for text in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "ä", "a\0", &"x".repeat(201)] {
            assert_eq!(TableId::new(text), None, "{text:?}");
        }
    }

    #[track_caller]
    fn check_name(start: i64, expected: &str) {
        assert_eq!(BucketName(Some(Bounds { start, end: i64::MAX })).to_string(), expected);
    }

    #[test]
    fn buckets_are_named_by_their_start() {
        assert_eq!(BucketName(None).to_string(), "all");
        check_name(0, "19700101");
        check_name(951_782_400_000_000, "20000229");
        check_name(1_706_682_600_000_000, "20240131T063000");
        check_name(1, "19700101T000000.000001");
        check_name(-1, "19691231T235959.999999");
        check_name(-86_400_000_000, "19691231");
        check_name(-62_198_755_200_000_000, "bc00010101");
        // The extremes of the type: odd, but no overflow.
        check_name(i64::MAX, "2942470110T040054.775807");
        check_name(i64::MIN, "bc2903081221T195905.224192");
    }

    #[test]
    fn partitions_sort_by_table_then_time() {
        let key = |table: &str, start: Option<i64>| PartitionKey {
            table: TableId::new(table).unwrap(),
            bucket: start.map(|start| Bounds { start, end: start + 1 }),
        };
        let sorted = [key("a", None), key("a", Some(-5)), key("a", Some(3)), key("a.b", Some(0)), key("b", None)];
        assert!(sorted.is_sorted());
    }
}
