//! Catalog values: explicit bytes, never the layout of a Rust type.
//!
//! The first byte is the version of the record. Numbers are big-endian, a text is its length (u64) and
//! UTF-8 bytes, an optional value is a tag byte 0, or 1 and the value. A changed layout is a new version,
//! which is written from then on; old ones stay readable.

use std::path::PathBuf;

pub(crate) use crate::error::RecordFault;
use crate::footer::Footer;
use crate::hashing::Extent;
use crate::{Bounds, FileId, JobId, JobOutput, JobRecord, JobState, Partition, PartitionKey, TableId, TableState};

/// The version that most records have today.
const VERSION: u8 = 1;
/// That of jobs: since 2 a done job tells its rows and bytes, and a job may be cancelled; since 3 it may be of a group.
const JOB_VERSION: u8 = 3;
/// That of partitions: since 2 with the sequence of their publish, and whether they are held.
const PARTITION_VERSION: u8 = 2;
/// That of garbage: since 2 it tells all that is known of the replaced partition, for a rollback.
const GARBAGE_VERSION: u8 = 2;

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
    /// The snapshot that its publish made; 0 for one that was published under format 1.
    pub(crate) sequence: u64,
    pub(crate) held: bool,
}

impl PartitionRecord {
    /// The partition as snapshots show it.
    pub(crate) fn into_partition(self, path: PathBuf) -> Partition {
        let Self { bucket, file, rows, size_bytes, checksum, time_bounds, refresh_key, built_at, build_ms, .. } = self;
        let (sequence, held) = (self.sequence, self.held);
        Partition {
            bucket,
            file,
            path,
            rows,
            size_bytes,
            checksum,
            time_bounds,
            refresh_key,
            built_at,
            build_ms,
            sequence,
            held,
        }
    }

    /// The record of a partition as a snapshot shows it.
    pub(crate) fn of(partition: &Partition) -> Self {
        Self {
            bucket: partition.bucket,
            file: partition.file,
            rows: partition.rows,
            size_bytes: partition.size_bytes,
            checksum: partition.checksum,
            time_bounds: partition.time_bounds,
            refresh_key: partition.refresh_key.clone(),
            built_at: partition.built_at,
            build_ms: partition.build_ms,
            sequence: partition.sequence,
            held: partition.held,
        }
    }

    /// What a file says of itself, with the extent of the whole file.
    pub(crate) fn of_footer(footer: &Footer, extent: Extent) -> Self {
        Self {
            bucket: footer.key.bucket,
            file: footer.file,
            rows: footer.rows,
            size_bytes: extent.size_bytes,
            checksum: extent.checksum,
            time_bounds: footer.time_bounds,
            refresh_key: footer.refresh_key.clone(),
            built_at: footer.built_at,
            build_ms: footer.build_ms,
            sequence: footer.sequence,
            held: footer.held,
        }
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
    /// What it was, if it can be published again; none for one that was replaced under format 1.
    pub(crate) version: Option<PartitionRecord>,
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
    Encoder::new(PARTITION_VERSION).record(record).0
}

pub(crate) fn decode_partition(bytes: &[u8]) -> Result<PartitionRecord, RecordFault> {
    decode(bytes, PARTITION_VERSION, |from| from.record())
}

pub(crate) fn encode_garbage(record: &GarbageRecord) -> Vec<u8> {
    let encoder = Encoder::new(GARBAGE_VERSION).partition(&record.partition).u64(record.size_bytes).i64(record.since);
    match &record.version {
        None => encoder.u8(0).0,
        Some(version) => encoder.u8(1).record(version).0,
    }
}

pub(crate) fn decode_garbage(bytes: &[u8]) -> Result<GarbageRecord, RecordFault> {
    decode(bytes, GARBAGE_VERSION, |from| {
        let (partition, size_bytes, since) = (from.partition()?, from.u64()?, from.i64()?);
        let has_version = from.version >= 2 && from.bool()?;
        let version = if has_version { Some(from.record()?) } else { None };
        Ok(GarbageRecord { partition, size_bytes, since, version })
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
    let encoder = encoder.u32(job.attempt).i64(job.created_at).optional_i64(job.started_at).optional_i64(job.ended_at);
    match &job.group {
        None => encoder.u8(0).0,
        Some(group) => encoder.u8(1).text(group).0,
    }
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
            group: if from.version >= 3 && from.bool()? { Some(from.text()?) } else { None },
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

    fn record(self, record: &PartitionRecord) -> Self {
        self.bounds(record.bucket)
            .u64(record.file.0)
            .u64(record.rows)
            .u64(record.size_bytes)
            .u64(record.checksum)
            .bounds(record.time_bounds.map(|(start, end)| Bounds { start, end }))
            .text(&record.refresh_key)
            .i64(record.built_at)
            .u64(record.build_ms)
            .u64(record.sequence)
            .u8(u8::from(record.held))
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

    fn record(&mut self) -> Result<PartitionRecord, RecordFault> {
        let is_first = self.version == 1;
        Ok(PartitionRecord {
            bucket: self.bounds()?,
            file: FileId(self.u64()?),
            rows: self.u64()?,
            size_bytes: self.u64()?,
            checksum: self.u64()?,
            time_bounds: self.bounds()?.map(|bounds| (bounds.start, bounds.end)),
            refresh_key: self.text()?,
            built_at: self.i64()?,
            build_ms: self.u64()?,
            sequence: if is_first { 0 } else { self.u64()? },
            held: if is_first { false } else { self.bool()? },
        })
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
            group: None,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.replace('_', "");
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(digits.get(at..at + 2).unwrap(), 16).unwrap())
            .collect()
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

    fn partition() -> PartitionRecord {
        PartitionRecord {
            bucket: Some(DAY),
            file: FileId(3),
            rows: 4,
            size_bytes: 5,
            checksum: u64::MAX,
            time_bounds: Some((0, 1)),
            refresh_key: "ä".into(),
            built_at: 6,
            build_ms: 7,
            sequence: 8,
            held: true,
        }
    }

    const PARTITION: &str = "01ffffffffffffffff0000000000000002_0000000000000003_0000000000000004_0000000000000005_\
        ffffffffffffffff_0100000000000000000000000000000001_0000000000000002c3a4_0000000000000006_0000000000000007";

    #[test]
    fn partitions_are_pinned() {
        let mut record = partition();
        let pinned = format!("02_{PARTITION}_0000000000000008_01");
        check(record.clone(), encode_partition(&record), &pinned, decode_partition);
        (record.bucket, record.time_bounds, record.refresh_key) = (None, None, String::new());
        let pinned = "02_00_0000000000000003_0000000000000004_0000000000000005_ffffffffffffffff_00_\
            0000000000000000_0000000000000006_0000000000000007_0000000000000008_01";
        check(record.clone(), encode_partition(&record), pinned, decode_partition);
    }

    #[test]
    fn partitions_and_garbage_of_format_1_are_read() {
        let first = PartitionRecord { sequence: 0, held: false, ..partition() };
        assert_eq!(decode_partition(&bytes(&format!("01_{PARTITION}"))), Ok(first));
        let first = GarbageRecord { partition: key(), size_bytes: 1, since: -2, version: None };
        assert_eq!(decode_garbage(&bytes(&format!("01_{GARBAGE}"))), Ok(first));
    }

    const GARBAGE: &str = "000000000000000174_01ffffffffffffffff0000000000000002_0000000000000001_fffffffffffffffe";

    #[test]
    fn garbage_is_pinned() {
        let record = GarbageRecord { partition: key(), size_bytes: 1, since: -2, version: None };
        check(record.clone(), encode_garbage(&record), &format!("02_{GARBAGE}_00"), decode_garbage);
        let record = GarbageRecord { version: Some(partition()), ..record };
        let pinned = format!("02_{GARBAGE}_01_{PARTITION}_0000000000000008_01");
        check(record.clone(), encode_garbage(&record), &pinned, decode_garbage);
    }

    #[test]
    fn jobs_are_pinned() {
        let back = |bytes: &[u8]| decode_job(JobId::from_token("0a"), bytes);
        let (head, tail) = (
            "03_00000000000000017400_00000000000000027b7d_000000000000000163_",
            "_00000003_0000000000000004_010000000000000005_00_00",
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
        let of_group = JobRecord { group: Some("g".into()), ..job(JobState::Queued) };
        let pinned = format!("{head}00_00000003_0000000000000004_010000000000000005_00_01000000000000000167");
        check(of_group.clone(), encode_job(&of_group), &pinned, back);
    }

    #[test]
    fn jobs_of_earlier_formats_are_read() {
        let first_version = |state: &[u8]| {
            let encoder = Encoder::new(1).partition(&PartitionKey { bucket: None, ..key() }).text("{}").text("c");
            encoder.bytes(state).u32(3).i64(4).optional_i64(Some(5)).optional_i64(None).0
        };
        let back = |state: &[u8]| decode_job(JobId::from_token("0a"), &first_version(state));
        let done = JobState::Done { file: FileId(8), output: None };
        assert_eq!(back(&[2, 0, 0, 0, 0, 0, 0, 0, 8]), Ok(job(done)));
        assert_eq!(back(&[1]), Ok(job(JobState::Running)));
        assert_eq!(back(&[4]), Err(RecordFault::Tag(4)));
        let second = "02_00000000000000017400_00000000000000027b7d_000000000000000163_04_00000003_0000000000000004_\
            010000000000000005_00";
        assert_eq!(decode_job(JobId::from_token("0a"), &bytes(second)), Ok(job(JobState::Cancelled)));
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
