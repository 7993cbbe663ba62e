//! Catalog keys: bytes that sort as their values do.
//!
//! The first byte names the kind of record, then come the parts of the key: numbers big-endian (signed
//! ones with the sign bit flipped), names ended by a zero byte, which no name contains.

use crate::catalog::record::RecordFault;
use crate::{FileId, JobId, PartitionKey, TableId};

/// The first byte of a key; `m` is that of single values. Never change or reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Prefix {
    Table = b't',
    Partition = b'p',
    Garbage = b'g',
    Job = b'j',
}

impl Prefix {
    pub(crate) fn byte(self) -> u8 {
        self as u8
    }
}

/// Version of the store's format.
pub(crate) const FORMAT: &[u8] = b"mformat";
/// Below it all file ids are used or reserved.
pub(crate) const FILE_LIMIT: &[u8] = b"mfile_limit";
/// Id of the newest snapshot.
pub(crate) const SNAPSHOT: &[u8] = b"msnapshot";

pub(crate) fn table(id: &TableId) -> Vec<u8> {
    let mut key = vec![Prefix::Table.byte()];
    key.extend_from_slice(id.as_str().as_bytes());
    key.push(0);
    key
}

pub(crate) fn decode_table(key: &[u8]) -> Result<TableId, RecordFault> {
    match key {
        [_, name @ .., 0] => name_of(name),
        _ => Err(RecordFault::Short),
    }
}

/// The end of the bucket is not part of the key: a table has one partition at a start.
pub(crate) fn partition(partition: &PartitionKey) -> Vec<u8> {
    let mut key = table(&partition.table);
    if let Some(first) = key.first_mut() {
        *first = Prefix::Partition.byte();
    }
    key.extend_from_slice(&ordered(partition.start()));
    key
}

/// Table and start.
pub(crate) fn decode_partition(key: &[u8]) -> Result<(TableId, i64), RecordFault> {
    let (table, start) = key.split_last_chunk::<8>().ok_or(RecordFault::Short)?;
    Ok((decode_table(table)?, from_ordered(*start)))
}

pub(crate) fn garbage(file: FileId) -> Vec<u8> {
    let mut key = vec![Prefix::Garbage.byte()];
    key.extend_from_slice(&file.0.to_be_bytes());
    key
}

pub(crate) fn decode_garbage(key: &[u8]) -> Result<FileId, RecordFault> {
    match key.split_first_chunk::<1>() {
        Some((_, file)) => {
            file.try_into().map(|file| FileId(u64::from_be_bytes(file))).map_err(|_odd| RecordFault::Key)
        }
        None => Err(RecordFault::Short),
    }
}

pub(crate) fn job(id: &JobId) -> Vec<u8> {
    let mut key = vec![Prefix::Job.byte()];
    key.extend_from_slice(id.as_str().as_bytes());
    key
}

pub(crate) fn decode_job(key: &[u8]) -> Result<JobId, RecordFault> {
    let (_, token) = key.split_first().ok_or(RecordFault::Short)?;
    text_of(token).map(JobId::from_token)
}

fn name_of(bytes: &[u8]) -> Result<TableId, RecordFault> {
    TableId::new(text_of(bytes)?).ok_or(RecordFault::Text)
}

fn text_of(bytes: &[u8]) -> Result<&str, RecordFault> {
    std::str::from_utf8(bytes).map_err(|_not_utf8| RecordFault::Text)
}

/// Big-endian with the sign bit flipped: negative numbers sort before positive ones.
fn ordered(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

fn from_ordered(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bounds;

    fn key(table: &str, start: Option<i64>) -> PartitionKey {
        let bucket = start.map(|start| Bounds { start, end: i64::MAX });
        PartitionKey { table: TableId::new(table).unwrap(), bucket }
    }

    #[test]
    fn keys_sort_as_their_values_do() {
        let starts = [None, Some(i64::MIN + 1), Some(-256), Some(-1), Some(0), Some(1), Some(256), Some(i64::MAX - 1)];
        let mut keys = Vec::new();
        for table in ["A", "a", "a-", "a.b", "aa", "b"] {
            keys.extend(starts.map(|start| key(table, start)));
        }
        assert!(keys.is_sorted());
        let bytes: Vec<_> = keys.iter().map(partition).collect();
        assert!(bytes.is_sorted());
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(decode_partition(bytes), Ok((key.table.clone(), key.start())));
        }
    }

    #[test]
    fn bytes_are_pinned() {
        assert_eq!(table(&TableId::new("t").unwrap()), b"tt\0");
        assert_eq!(partition(&key("t", Some(1))), b"pt\0\x80\0\0\0\0\0\0\x01");
        assert_eq!(partition(&key("t", Some(-1))), b"pt\0\x7f\xff\xff\xff\xff\xff\xff\xff");
        assert_eq!(partition(&key("t", None)), b"pt\0\0\0\0\0\0\0\0\0");
        assert_eq!(garbage(FileId(0x0102)), b"g\0\0\0\0\0\0\x01\x02");
        assert_eq!(job(&JobId::from_token("0a")), b"j0a");
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let id = TableId::new("cube.rollup@UTC-0").unwrap();
        assert_eq!(decode_table(&table(&id)), Ok(id));
        assert_eq!(decode_garbage(&garbage(FileId(u64::MAX))), Ok(FileId(u64::MAX)));
        assert_eq!(decode_job(&job(&JobId::from_token("ff00"))), Ok(JobId::from_token("ff00")));
    }

    #[test]
    fn damaged_keys_are_faults() {
        assert_eq!(decode_table(b"t"), Err(RecordFault::Short));
        assert_eq!(decode_table(b"t../x\0"), Err(RecordFault::Text));
        assert_eq!(decode_table(b"t\xff\0"), Err(RecordFault::Text));
        assert_eq!(decode_partition(b"pt\0\0\0"), Err(RecordFault::Short));
        assert_eq!(decode_garbage(b"g\0"), Err(RecordFault::Key));
        assert_eq!(decode_garbage(b""), Err(RecordFault::Short));
        assert_eq!(decode_job(b"j\xff"), Err(RecordFault::Text));
    }
}
