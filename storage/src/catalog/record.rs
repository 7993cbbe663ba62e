//! Catalog values: explicit bytes, never the layout of a Rust type.
//!
//! The first byte is the version of the record. Numbers are big-endian, a text is its length (u64) and
//! UTF-8 bytes, an optional value is a tag byte 0, or 1 and the value. A changed layout is a new version,
//! which is written from then on; old ones stay readable.

use std::path::PathBuf;

pub(crate) use crate::error::RecordFault;
use crate::{Bounds, FileId, JobId, JobOutput, JobRecord, JobState, Partition, PartitionKey, TableId, TableState};

/// The version that most records have today.
const VERSION: u8 = 1;
/// That of jobs: since 2 a done job tells its rows and bytes, and a job may be cancelled.
const JOB_VERSION: u8 = 2;

/// A live partition; its table and start are in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionRecord {
    pub(crate) bucket: Option<Bounds>,
    pub(crate) file: FileId,
    pub(crate) rows: u64,
    pub(crate) size_bytes: u64,
    pub(crate) checksum: u64,
    pub(crate) time_bounds: Option<(i64, i64)>,
    pub(crate) refresh_key: String,
    pub(crate) built_at: i64,
    pub(crate) build_ms: u64,
}

impl PartitionRecord {
    /// The partition as snapshots show it.
    pub(crate) fn into_partition(self, path: PathBuf) -> Partition {
        let Self { bucket, file, rows, size_bytes, checksum, time_bounds, refresh_key, built_at, build_ms } = self;
        Partition { bucket, file, path, rows, size_bytes, checksum, time_bounds, refresh_key, built_at, build_ms }
    }
}

/// A file that no partition needs any more; its id is in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GarbageRecord {
    /// The partition it was written for; with the id it gives the path.
    pub(crate) partition: PartitionKey,
    pub(crate) size_bytes: u64,
    /// When it was replaced, in UTC microseconds.
    pub(crate) since: i64,
}

pub(crate) fn encode_number(value: u64) -> Vec<u8> {
    Encoder::new(VERSION).u64(value).0
}

pub(crate) fn decode_number(bytes: &[u8]) -> Result<u64, RecordFault> {
    decode(bytes, VERSION, |from| from.u64())
}

pub(crate) fn encode_table(state: &TableState) -> Vec<u8> {
    Encoder::new(VERSION).bounds(state.range).u8(u8::from(state.complete)).0
}

pub(crate) fn decode_table(bytes: &[u8]) -> Result<TableState, RecordFault> {
    decode(bytes, VERSION, |from| Ok(TableState { range: from.bounds()?, complete: from.bool()? }))
}

pub(crate) fn encode_partition(record: &PartitionRecord) -> Vec<u8> {
    Encoder::new(VERSION)
        .bounds(record.bucket)
        .u64(record.file.0)
        .u64(record.rows)
        .u64(record.size_bytes)
        .u64(record.checksum)
        .bounds(record.time_bounds.map(|(start, end)| Bounds { start, end }))
        .text(&record.refresh_key)
        .i64(record.built_at)
        .u64(record.build_ms)
        .0
}

pub(crate) fn decode_partition(bytes: &[u8]) -> Result<PartitionRecord, RecordFault> {
    decode(bytes, VERSION, |from| {
        Ok(PartitionRecord {
            bucket: from.bounds()?,
            file: FileId(from.u64()?),
            rows: from.u64()?,
            size_bytes: from.u64()?,
            checksum: from.u64()?,
            time_bounds: from.bounds()?.map(|bounds| (bounds.start, bounds.end)),
            refresh_key: from.text()?,
            built_at: from.i64()?,
            build_ms: from.u64()?,
        })
    })
}

pub(crate) fn encode_garbage(record: &GarbageRecord) -> Vec<u8> {
    Encoder::new(VERSION).partition(&record.partition).u64(record.size_bytes).i64(record.since).0
}

pub(crate) fn decode_garbage(bytes: &[u8]) -> Result<GarbageRecord, RecordFault> {
    decode(bytes, VERSION, |from| {
        Ok(GarbageRecord { partition: from.partition()?, size_bytes: from.u64()?, since: from.i64()? })
    })
}

pub(crate) fn encode_job(job: &JobRecord) -> Vec<u8> {
    let encoder = Encoder::new(JOB_VERSION).partition(&job.partition).text(&job.details).text(&job.context);
    let encoder = match &job.state {
        JobState::Queued => encoder.u8(0),
        JobState::Running => encoder.u8(1),
        JobState::Done { file, output } => encoder.u8(2).u64(file.0).output(*output),
        JobState::Failed { cause } => encoder.u8(3).text(cause),
        JobState::Cancelled => encoder.u8(4),
    };
    encoder.u32(job.attempt).i64(job.created_at).optional_i64(job.started_at).optional_i64(job.ended_at).0
}

/// The token is in the key.
pub(crate) fn decode_job(id: JobId, bytes: &[u8]) -> Result<JobRecord, RecordFault> {
    decode(bytes, JOB_VERSION, |from| {
        Ok(JobRecord {
            id,
            partition: from.partition()?,
            details: from.text()?,
            context: from.text()?,
            state: match from.u8()? {
                0 => JobState::Queued,
                1 => JobState::Running,
                2 => JobState::Done { file: FileId(from.u64()?), output: from.output()? },
                3 => JobState::Failed { cause: from.text()? },
                4 if from.version >= 2 => JobState::Cancelled,
                tag => return Err(RecordFault::Tag(tag)),
            },
            attempt: from.u32()?,
            created_at: from.i64()?,
            started_at: from.optional_i64()?,
            ended_at: from.optional_i64()?,
        })
    })
}

/// Appends values; consumed and given back, so that a record is one chain.
#[derive(Debug)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn new(version: u8) -> Self {
        Self(vec![version])
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i64(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn optional_i64(self, value: Option<i64>) -> Self {
        match value {
            None => self.u8(0),
            Some(value) => self.u8(1).i64(value),
        }
    }

    fn text(self, value: &str) -> Self {
        self.u64(value.len() as u64).bytes(value.as_bytes())
    }

    fn bounds(self, value: Option<Bounds>) -> Self {
        match value {
            None => self.u8(0),
            Some(Bounds { start, end }) => self.u8(1).i64(start).i64(end),
        }
    }

    fn output(self, value: Option<JobOutput>) -> Self {
        match value {
            None => self.u8(0),
            Some(JobOutput { rows, size_bytes }) => self.u8(1).u64(rows).u64(size_bytes),
        }
    }

    fn partition(self, value: &PartitionKey) -> Self {
        self.text(value.table.as_str()).bounds(value.bucket)
    }
}

/// Reads a whole record: its version, from 1 to `newest`, its values, and nothing after them.
fn decode<T>(
    bytes: &[u8],
    newest: u8,
    values: impl FnOnce(&mut Decoder<'_>) -> Result<T, RecordFault>,
) -> Result<T, RecordFault> {
    let mut from = Decoder { rest: bytes, version: 0 };
    from.version = from.u8()?;
    if !(1..=newest).contains(&from.version) {
        return Err(RecordFault::Version(from.version));
    }
    let record = values(&mut from)?;
    if from.rest.is_empty() { Ok(record) } else { Err(RecordFault::Long) }
}

/// The bytes not yet read, and the version of the record they are of.
#[derive(Debug)]
struct Decoder<'a> {
    rest: &'a [u8],
    version: u8,
}

impl Decoder<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordFault> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(RecordFault::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, RecordFault> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, RecordFault> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordFault> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, RecordFault> {
        self.array().map(i64::from_be_bytes)
    }

    fn bool(&mut self) -> Result<bool, RecordFault> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(RecordFault::Tag(tag)),
        }
    }

    fn optional_i64(&mut self) -> Result<Option<i64>, RecordFault> {
        Ok(if self.bool()? { Some(self.i64()?) } else { None })
    }

    fn text(&mut self) -> Result<String, RecordFault> {
        // A length that exceeds the record is refused here, before anything of that size is allocated.
        let size = usize::try_from(self.u64()?).map_err(|_too_long| RecordFault::Short)?;
        let (head, rest) = self.rest.split_at_checked(size).ok_or(RecordFault::Short)?;
        self.rest = rest;
        std::str::from_utf8(head).map(str::to_owned).map_err(|_not_utf8| RecordFault::Text)
    }

    fn bounds(&mut self) -> Result<Option<Bounds>, RecordFault> {
        Ok(if self.bool()? { Some(Bounds { start: self.i64()?, end: self.i64()? }) } else { None })
    }

    fn output(&mut self) -> Result<Option<JobOutput>, RecordFault> {
        let is_known = self.version >= 2 && self.bool()?;
        Ok(if is_known { Some(JobOutput { rows: self.u64()?, size_bytes: self.u64()? }) } else { None })
    }

    fn partition(&mut self) -> Result<PartitionKey, RecordFault> {
        let table = TableId::new(&self.text()?).ok_or(RecordFault::Text)?;
        Ok(PartitionKey { table, bucket: self.bounds()? })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write};

    use super::*;

    const DAY: Bounds = Bounds { start: -1, end: 2 };

    fn key() -> PartitionKey {
        PartitionKey { table: TableId::new("t").unwrap(), bucket: Some(DAY) }
    }

    fn job(state: JobState) -> JobRecord {
        JobRecord {
            id: JobId::from_token("0a"),
            partition: PartitionKey { bucket: None, ..key() },
            details: "{}".into(),
            context: "c".into(),
            state,
            attempt: 3,
            created_at: 4,
            started_at: Some(5),
            ended_at: None,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    /// Pins the bytes, with `_` between values, and checks the way back; no damage gets through.
    #[track_caller]
    fn check<T: PartialEq + Debug>(
        value: T,
        bytes: Vec<u8>,
        pinned: &str,
        back: impl Fn(&[u8]) -> Result<T, RecordFault>,
    ) {
        assert_eq!(hex(&bytes), pinned.replace('_', ""));
        assert_eq!(back(&bytes), Ok(value));
        for end in 0..bytes.len() {
            assert_eq!(back(bytes.get(..end).unwrap()), Err(RecordFault::Short), "cut at {end}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(back(&longer), Err(RecordFault::Long));
        let mut newer = bytes;
        *newer.first_mut().unwrap() = 9;
        assert_eq!(back(&newer), Err(RecordFault::Version(9)));
    }

    #[test]
    fn numbers_and_tables_are_pinned() {
        check(258, encode_number(258), "01_0000000000000102", decode_number);
        let state = TableState { range: None, complete: false };
        check(state, encode_table(&state), "01_00_00", decode_table);
        let state = TableState { range: Some(DAY), complete: true };
        check(state, encode_table(&state), "01_01ffffffffffffffff0000000000000002_01", decode_table);
    }

    #[test]
    fn partitions_are_pinned() {
        let mut record = PartitionRecord {
            bucket: Some(DAY),
            file: FileId(3),
            rows: 4,
            size_bytes: 5,
            checksum: u64::MAX,
            time_bounds: Some((0, 1)),
            refresh_key: "ä".into(),
            built_at: 6,
            build_ms: 7,
        };
        let pinned = "01_01ffffffffffffffff0000000000000002_0000000000000003_0000000000000004_0000000000000005_\
            ffffffffffffffff_0100000000000000000000000000000001_0000000000000002c3a4_0000000000000006_0000000000000007";
        check(record.clone(), encode_partition(&record), pinned, decode_partition);
        (record.bucket, record.time_bounds, record.refresh_key) = (None, None, String::new());
        let pinned = "01_00_0000000000000003_0000000000000004_0000000000000005_ffffffffffffffff_00_\
            0000000000000000_0000000000000006_0000000000000007";
        check(record.clone(), encode_partition(&record), pinned, decode_partition);
    }

    #[test]
    fn garbage_is_pinned() {
        let record = GarbageRecord { partition: key(), size_bytes: 1, since: -2 };
        let pinned = "01_000000000000000174_01ffffffffffffffff0000000000000002_0000000000000001_fffffffffffffffe";
        check(record.clone(), encode_garbage(&record), pinned, decode_garbage);
    }

    #[test]
    fn jobs_are_pinned() {
        let back = |bytes: &[u8]| decode_job(JobId::from_token("0a"), bytes);
        let (head, tail) = (
            "02_00000000000000017400_00000000000000027b7d_000000000000000163_",
            "_00000003_0000000000000004_010000000000000005_00",
        );
        let pinned = |state: &str| format!("{head}{state}{tail}");
        for (state, bytes) in [
            (JobState::Queued, "00"),
            (JobState::Running, "01"),
            (JobState::Done { file: FileId(8), output: None }, "02_0000000000000008_00"),
            (
                JobState::Done { file: FileId(8), output: Some(JobOutput { rows: 6, size_bytes: 7 }) },
                "02_0000000000000008_01_0000000000000006_0000000000000007",
            ),
            (JobState::Failed { cause: "no".into() }, "03_00000000000000026e6f"),
            (JobState::Cancelled, "04"),
        ] {
            let job = job(state);
            check(job.clone(), encode_job(&job), &pinned(bytes), back);
        }
    }

    #[test]
    fn jobs_of_format_1_are_read() {
        let first_version = |state: &[u8]| {
            let encoder = Encoder::new(1).partition(&PartitionKey { bucket: None, ..key() }).text("{}").text("c");
            encoder.bytes(state).u32(3).i64(4).optional_i64(Some(5)).optional_i64(None).0
        };
        let back = |state: &[u8]| decode_job(JobId::from_token("0a"), &first_version(state));
        let done = JobState::Done { file: FileId(8), output: None };
        assert_eq!(back(&[2, 0, 0, 0, 0, 0, 0, 0, 8]), Ok(job(done)));
        assert_eq!(back(&[1]), Ok(job(JobState::Running)));
        assert_eq!(back(&[4]), Err(RecordFault::Tag(4)));
    }

    #[test]
    fn values_without_meaning_are_faults() {
        assert_eq!(decode_table(&[1, 2]), Err(RecordFault::Tag(2)));
        assert_eq!(decode_table(&[1, 0, 7]), Err(RecordFault::Tag(7)));
        let bad_name = Encoder::new(VERSION).text("../x").bounds(None).u64(0).i64(0).0;
        assert_eq!(decode_garbage(&bad_name), Err(RecordFault::Text));
        let not_utf8 = Encoder::new(VERSION).u64(1).u8(0xff).0;
        assert_eq!(decode_garbage(&not_utf8), Err(RecordFault::Text));
        let huge = Encoder::new(VERSION).u64(u64::MAX).0;
        assert_eq!(decode_garbage(&huge), Err(RecordFault::Short));
    }
}
