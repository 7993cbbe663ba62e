//! The checksum of files: XXH3, 64 bits, seed 0.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3Default;

use crate::StorageError;
use crate::faults::Faults;

/// A hash in the making.
#[derive(Clone)]
pub(crate) struct Hash(Xxh3Default);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(Xxh3Default::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn digest(&self) -> u64 {
        self.0.digest()
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hash").finish_non_exhaustive()
    }
}

/// How many bytes, and their hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) size_bytes: u64,
    pub(crate) checksum: u64,
}

/// The extent of a whole file on disk.
pub(crate) fn extent_of(path: &Path) -> Result<Extent, StorageError> {
    let mut file = File::open(path).map_err(|e| StorageError::io("open", path, e))?;
    read_extent(&mut file, 0, u64::MAX).map_err(|e| StorageError::io("read", path, e))
}

/// The extent of at most `limit` bytes from `start` on.
pub(crate) fn read_extent(file: &mut File, start: u64, limit: u64) -> io::Result<Extent> {
    let mut hash = Hash::new();
    let mut buffer = vec![0; 1 << 18];
    file.seek(SeekFrom::Start(start))?;
    let mut size_bytes = 0;
    loop {
        let wanted = usize::try_from(limit - size_bytes).unwrap_or(usize::MAX).min(buffer.len());
        let read = match buffer.get_mut(..wanted) {
            Some(buffer) if wanted > 0 => file.read(buffer)?,
            _ => 0,
        };
        if read == 0 {
            return Ok(Extent { size_bytes, checksum: hash.digest() });
        }
        hash.update(buffer.get(..read).unwrap_or_default());
        size_bytes += read as u64;
    }
}

/// A file that hashes and counts what passes, so that the checksum is of what we meant to write.
#[derive(Debug)]
pub(crate) struct HashingFile {
    path: PathBuf,
    /// None while it is closed.
    file: Option<File>,
    faults: Faults,
    whole: Box<Hash>,
    size_bytes: u64,
    /// What came after [`HashingFile::mark`].
    tail: Option<Box<Hash>>,
}

impl HashingFile {
    /// Of a file at its path, open to be written.
    pub(crate) fn new(path: &Path, file: File, faults: Faults) -> Self {
        let (path, whole) = (path.to_owned(), Box::new(Hash::new()));
        Self { path, file: Some(file), faults, whole, size_bytes: 0, tail: None }
    }

    /// Closes the file until more is written: thousands may wait for that at the same time.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    fn file(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            closed => Ok(closed.insert(File::options().append(true).open(&self.path)?)),
        }
    }

    /// All that was written.
    pub(crate) fn extent(&self) -> Extent {
        Extent { size_bytes: self.size_bytes, checksum: self.whole.digest() }
    }

    /// Begins the tail.
    pub(crate) fn mark(&mut self) {
        self.tail = Some(Box::new(Hash::new()));
    }

    /// The checksum of all that was written after the mark.
    pub(crate) fn tail_checksum(&self) -> Option<u64> {
        self.tail.as_ref().map(|tail| tail.digest())
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.faults.strike()?;
        self.file()?.sync_all()
    }
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.faults.strike()?;
        let written = self.file()?.write(bytes)?;
        let bytes = bytes.get(..written).unwrap_or(bytes);
        self.whole.update(bytes);
        if let Some(tail) = &mut self.tail {
            tail.update(bytes);
        }
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), File::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_of_the_bytes_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes: Vec<u8> = (0..=250).cycle().take(600_000).collect();
        let (head, tail) = bytes.split_at(500_000);
        let mut out = HashingFile::new(&path, File::create(&path).unwrap(), Faults::default());
        out.write_all(head).unwrap();
        out.close();
        assert_eq!(out.tail_checksum(), None);
        out.mark();
        out.write_all(tail).unwrap();
        let whole = Extent { size_bytes: 600_000, checksum: xxhash_rust::xxh3::xxh3_64(&bytes) };
        assert_eq!((out.extent(), extent_of(&path).unwrap()), (whole, whole));
        let mut file = File::open(&path).unwrap();
        let tail = read_extent(&mut file, 500_000, u64::MAX).unwrap();
        assert_eq!((tail.size_bytes, Some(tail.checksum)), (100_000, out.tail_checksum()));
        let expected = Extent { size_bytes: 500_000, checksum: xxhash_rust::xxh3::xxh3_64(head) };
        assert_eq!(read_extent(&mut file, 0, 500_000).unwrap(), expected);
        assert_eq!(read_extent(&mut file, 0, 0).unwrap().size_bytes, 0);
    }
}
