//! What lies in a folder: data files by their names, and Hive-style `key=value` folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xxhash_rust::xxh3::Xxh3;

/// How the bytes of a file are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Parquet,
    Csv,
    Tsv,
    Json,
    Arrow,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Kind and compression, as the name of a file tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Format {
    pub(super) kind: Kind,
    pub(super) compression: Compression,
}

impl Format {
    /// Splits a file name into the table's name and the format; none when it is no data file.
    pub(super) fn parse(file_name: &str) -> Option<(&str, Self)> {
        let (name, compression) = match file_name.rsplit_once('.')? {
            (name, end) if end.eq_ignore_ascii_case("gz") => (name, Compression::Gzip),
            (name, end) if end.eq_ignore_ascii_case("zst") => (name, Compression::Zstd),
            _ => (file_name, Compression::None),
        };
        let (stem, end) = name.rsplit_once('.')?;
        let kind = match end.to_ascii_lowercase().as_str() {
            "parquet" => Kind::Parquet,
            "csv" => Kind::Csv,
            "tsv" => Kind::Tsv,
            "json" | "ndjson" | "jsonl" => Kind::Json,
            "arrow" => Kind::Arrow,
            _ => return None,
        };
        let is_text = matches!(kind, Kind::Csv | Kind::Tsv | Kind::Json);
        let valid = !stem.is_empty() && (is_text || compression == Compression::None);
        valid.then_some((stem, Self { kind, compression }))
    }
}

/// A data file as it is now.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) stamp: Stamp,
}

/// What changes when a file is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    size_bytes: u64,
    modified: Option<SystemTime>,
}

impl DataFile {
    /// The file at `path`; none when its name is not that of a data file.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub(super) fn at(path: PathBuf) -> io::Result<Option<Self>> {
        let Some((_, format)) = path.file_name().and_then(|name| name.to_str()).and_then(Format::parse) else {
            return Ok(None);
        };
        let metadata = fs::metadata(&path)?;
        let stamp = Stamp { size_bytes: metadata.len(), modified: metadata.modified().ok() };
        Ok(Some(Self { path, format, stamp }))
    }
}

/// Something in a folder that may be a table or a schema.
#[derive(Debug)]
pub(super) enum Entry {
    File(DataFile),
    Folder(PathBuf),
}

impl Entry {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(file) => &file.path,
            Self::Folder(path) => path,
        }
    }
}

/// The data files and folders of `folder` with their names, sorted. Names that start with `.` or `_` are left
/// out, as are other files; a folder that is not there is empty.
///
/// # Errors
/// The folder cannot be listed.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<(String, Entry)>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for item in listing {
        let path = item?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            found.push((name, Entry::Folder(path)));
            continue;
        }
        match DataFile::at(path) {
            Ok(Some(file)) => {
                let stem = Format::parse(&name).map_or(name.as_str(), |(stem, _)| stem).to_owned();
                found.push((stem, Entry::File(file)));
            }
            Ok(None) => {}
            // Removed since the folder was listed, or a link to nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|(_, a), (_, b)| a.path().cmp(b.path()));
    Ok(found)
}

/// A digest of what lies below a folder: names, sizes and times. Differs when a file is added, removed or written again.
pub(super) fn digest(folder: &Path) -> u64 {
    let mut hash = Xxh3::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        match entries(&folder) {
            Ok(entries) => {
                for (_, entry) in entries {
                    hash.update(entry.path().as_os_str().as_encoded_bytes());
                    match entry {
                        Entry::File(file) => hash.update(format!("{:?}", file.stamp).as_bytes()),
                        Entry::Folder(path) => pending.push(path),
                    }
                }
            }
            // What cannot be listed now may be listed next time.
            Err(error) => hash.update(error.to_string().as_bytes()),
        }
    }
    hash.digest()
}

/// The files below a folder that Hive-style folders divide, if any.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<DataFile>,
    /// Keys of the `key=value` folders, outermost first.
    pub(super) keys: Vec<String>,
    /// The values seen, a list a key.
    pub(super) values: Vec<Vec<String>>,
    /// Other folders with or without files, or files at different depths: this is no single table.
    pub(super) mixed: bool,
}

impl Tree {
    /// Walks `folder`.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let mut leaf_depths = Vec::new();
        let mut pending = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = pending.pop() {
            for (name, entry) in entries(&folder)? {
                match entry {
                    Entry::File(file) => {
                        leaf_depths.push(depth);
                        tree.files.push(file);
                    }
                    Entry::Folder(path) => match name.split_once('=') {
                        Some((key, value)) if !key.is_empty() => {
                            tree.add_partition(depth, key, value);
                            pending.push((path, depth + 1));
                        }
                        _ => tree.mixed = true,
                    },
                }
            }
        }
        tree.mixed |= leaf_depths.iter().any(|depth| *depth != tree.keys.len());
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn add_partition(&mut self, depth: usize, key: &str, value: &str) {
        if self.keys.len() == depth {
            self.keys.push(key.to_owned());
            self.values.push(Vec::new());
        }
        self.mixed |= self.keys[depth] != key;
        self.values[depth].push(value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<(&str, Kind, Compression)>) {
        let expected = expected.map(|(stem, kind, compression)| (stem, Format { kind, compression }));
        assert_eq!(Format::parse(name), expected, "{name}");
    }

    #[test]
    fn file_names_tell_table_and_format() {
        check("orders.parquet", Some(("orders", Kind::Parquet, Compression::None)));
        check("Orders.CSV", Some(("Orders", Kind::Csv, Compression::None)));
        check("a.b.tsv.gz", Some(("a.b", Kind::Tsv, Compression::Gzip)));
        check("e.ndjson.zst", Some(("e", Kind::Json, Compression::Zstd)));
        check("e.json", Some(("e", Kind::Json, Compression::None)));
        check("e.arrow", Some(("e", Kind::Arrow, Compression::None)));
        check("e.parquet.gz", None);
        check("e.gz", None);
        check("e.txt", None);
        check(".csv", None);
        check("csv", None);
    }

    #[test]
    fn hive_folders_are_walked_and_other_folders_noted() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "a\n1\n").unwrap();
        };
        write("h/year=2023/m=1/a.csv");
        write("h/year=2024/m=2/b.csv");
        write("h/_temporary/x.csv");
        let tree = Tree::read(&root.path().join("h")).unwrap();
        assert_eq!((tree.files.len(), tree.keys, tree.mixed), (2, vec!["year".to_owned(), "m".to_owned()], false));
        write("h/plain/c.csv");
        assert!(Tree::read(&root.path().join("h")).unwrap().mixed);
        write("g/year=1/a.csv");
        write("g/month=1/a.csv");
        assert!(Tree::read(&root.path().join("g")).unwrap().mixed);
        assert!(Tree::read(&root.path().join("nothing")).unwrap().files.is_empty());
    }
}
