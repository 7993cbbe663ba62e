//! Local files as one statement sees them: each in the state in which the statement first met it.
//!
//! A scan reads a file in many portions, and the readers underneath open it anew for each. A source that is replaced
//! meanwhile would be answered with old and new rows in one answer, or with nonsense. So a statement keeps the
//! handle of the file it opened first: a file that is replaced (a rename over it, the usual way) is read to its end as
//! it was. One that is written in place is an error instead.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::error::Result as EngineResult;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry as _, ObjectStoreUrl};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::tasks::blocking;

/// Handles that a statement keeps; of further files it notices that they were replaced, and fails.
const MOST_HANDLES: usize = 128;
/// Bytes of one portion of a file that is read from start to end.
const PORTION: u64 = 1 << 20;

/// The files of one statement, read only. Clones share what they have met.
#[derive(Debug, Clone, Default)]
pub(crate) struct PinnedFiles(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    files: LocalFileSystem,
    met: Mutex<HashMap<Path, Met>>,
}

/// A file that the statement has met.
#[derive(Debug, Clone)]
struct Met {
    identity: Identity,
    meta: ObjectMeta,
    handle: Option<Arc<File>>,
}

/// What differs between two files, or two states of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    size_bytes: u64,
    modified: Option<SystemTime>,
    number: (u64, u64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size_bytes: metadata.len(),
            modified: metadata.modified().ok(),
            number: (metadata.dev(), metadata.ino()),
        }
    }
}

/// `state` with files of its own, for one statement.
///
/// # Errors
/// The engine refuses its own settings.
pub(super) fn pinned(state: SessionState) -> EngineResult<SessionState> {
    let registry = DefaultObjectStoreRegistry::new();
    registry.register_store(ObjectStoreUrl::local_filesystem().as_ref(), Arc::new(PinnedFiles::default()));
    let runtime =
        RuntimeEnvBuilder::from_runtime_env(state.runtime_env()).with_object_store_registry(Arc::new(registry));
    Ok(SessionStateBuilder::new_from_existing(state).with_runtime_env(runtime.build_arc()?).build())
}

impl Inner {
    /// The file as it was met first, open.
    fn open(&self, location: &Path) -> Result<(Arc<File>, ObjectMeta)> {
        let known = self.lock().get(location).cloned();
        let (file, identity) = match known.as_ref().and_then(|met| met.handle.clone()) {
            Some(handle) => {
                let metadata = handle.metadata().map_err(|error| failed(location, error))?;
                (handle, Identity::of(&metadata))
            }
            None => {
                let path = self.files.path_to_filesystem(location)?;
                let file = File::open(path).map_err(|error| failed(location, error))?;
                let metadata = file.metadata().map_err(|error| failed(location, error))?;
                (Arc::new(file), Identity::of(&metadata))
            }
        };
        if let Some(met) = known {
            if met.identity != identity {
                let name = location.filename().unwrap_or_default();
                return Err(failed(location, format!("\"{name}\" changed while it was read; try again")));
            }
            return Ok((file, met.meta));
        }
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: identity.modified.unwrap_or(SystemTime::UNIX_EPOCH).into(),
            size: identity.size_bytes,
            e_tag: None,
            version: None,
        };
        let mut met = self.lock();
        let handle = (met.len() < MOST_HANDLES).then(|| Arc::clone(&file));
        // Another thread of the statement may have met it first; then its state counts.
        let first = met.entry(location.clone()).or_insert(Met { identity, meta: meta.clone(), handle });
        if first.identity == identity {
            return Ok((file, meta));
        }
        drop(met);
        self.open(location)
    }

    /// The file with a place of its own to read on from; none when it was replaced since it was met.
    fn reopen(&self, location: &Path) -> Result<Option<GetResultPayload>> {
        let (met, _) = self.open(location)?;
        let identity = Identity::of(&met.metadata().map_err(|error| failed(location, error))?);
        let path = self.files.path_to_filesystem(location)?;
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let metadata = file.metadata().map_err(|error| failed(location, error))?;
        Ok((Identity::of(&metadata) == identity).then_some(GetResultPayload::File(file, path)))
    }

    fn read(&self, location: &Path, range: &Range<u64>) -> Result<Bytes> {
        let (file, _) = self.open(location)?;
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(|error| failed(location, error))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map_err(|error| failed(location, error))?;
        Ok(bytes.into())
    }

    /// A map is whole after every statement here, also in a thread that panicked.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Path, Met>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Is this an Arrow file? The engine's reader seeks in it when it gets the file itself. From portions it takes the schema
/// of the streaming format alone, whose start is another one.
fn is_read_as_file(location: &Path) -> bool {
    location.extension() == Some("arrow")
}

fn failed(location: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let source = error.into();
    let missing = source.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    if missing {
        Error::NotFound { path: location.to_string(), source }
    } else {
        Error::Generic { store: "file", source }
    }
}

impl std::fmt::Display for PinnedFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "files of a statement")
    }
}

#[async_trait]
impl ObjectStore for PinnedFiles {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(read_only("put"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(read_only("put"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (inner, path) = (Arc::clone(&self.0), location.clone());
        let (_, meta) = blocking(move || inner.open(&path)).await?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| failed(location, error))?,
            None => 0..meta.size,
        };
        if options.range.is_none() && !options.head && is_read_as_file(location) {
            let (inner, path) = (Arc::clone(&self.0), location.clone());
            if let Some(payload) = blocking(move || inner.reopen(&path)).await? {
                return Ok(GetResult { payload, meta, range, attributes: Attributes::default() });
            }
        }
        let wanted = if options.head { 0..0 } else { range.clone() };
        let next = (Arc::clone(&self.0), location.clone(), wanted);
        let portions = stream::try_unfold(next, |(inner, location, left)| async move {
            if left.is_empty() {
                return Ok(None);
            }
            let portion = left.start..left.end.min(left.start + PORTION);
            let rest = portion.end..left.end;
            let (reader, path) = (Arc::clone(&inner), location.clone());
            let bytes = blocking(move || reader.read(&path, &portion)).await?;
            Ok(Some((bytes, (inner, location, rest))))
        });
        let payload = GetResultPayload::Stream(portions.boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (inner, location, ranges) = (Arc::clone(&self.0), location.clone(), ranges.to_vec());
        blocking(move || ranges.iter().map(|range| inner.read(&location, range)).collect()).await
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::iter([Err(read_only("delete"))]).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = Arc::clone(&self.0);
        let met = move |listed: Result<ObjectMeta>| listed.and_then(|meta| Ok(inner.open(&meta.location)?.1));
        self.0.files.list(prefix).map(met).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.0.files.list_with_delimiter(prefix).await?;
        for meta in &mut listed.objects {
            *meta = self.0.open(&meta.location)?.1;
        }
        Ok(listed)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(read_only("copy"))
    }
}

fn read_only(operation: &str) -> Error {
    Error::NotSupported { source: format!("sources are only read: {operation}").into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use object_store::ObjectStoreExt as _;

    use super::*;

    fn file(folder: &tempfile::TempDir, text: &str) -> (PathBuf, Path) {
        let path = folder.path().join("a.csv");
        fs::write(&path, text).expect("a file");
        let location = Path::from_absolute_path(&path).expect("a plain name");
        (path, location)
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_to_its_end_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, location) = file(&folder, "old rows");
        let files = PinnedFiles::default();
        assert_eq!(files.head(&location).await.expect("met").size, 8);
        let next = folder.path().join("next");
        fs::write(&next, "new rows, more").expect("a file");
        fs::rename(&next, &path).expect("one folder");
        assert_eq!(files.get_ranges(&location, &[0..3, 4..8]).await.expect("old"), ["old", "rows"]);
        assert_eq!(files.get(&location).await.expect("old").bytes().await.expect("bytes"), "old rows");
        let ranged = files.get_range(&location, 4..8).await.expect("old");
        assert_eq!(ranged, "rows");
        let listed: Vec<_> = files
            .list(None::<&Path>.or(Some(&Path::from_absolute_path(folder.path()).expect("plain"))))
            .collect()
            .await;
        assert_eq!(listed.into_iter().map(|meta| meta.expect("listed").size).collect::<Vec<_>>(), [8]);
        // The next statement sees the new one.
        assert_eq!(
            PinnedFiles::default().get(&location).await.expect("new").bytes().await.expect("bytes"),
            "new rows, more"
        );
    }

    #[tokio::test]
    async fn a_file_that_is_written_in_place_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, location) = file(&folder, "old rows");
        let files = PinnedFiles::default();
        files.head(&location).await.expect("met");
        fs::write(&path, "other rows").expect("a file");
        let error = files.get_ranges(&location, &[0..3, 4..8]).await.expect_err("changed").to_string();
        assert!(error.contains("\"a.csv\" changed while it was read; try again"), "{error}");
        fs::remove_file(&path).expect("a file");
        let error = PinnedFiles::default().head(&location).await.expect_err("missing");
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}
