//! Whether a store makes an object only if it is not there.
//!
//! Each version of a table's log must be made by one writer only. A store that takes "create" for "overwrite" (some that
//! speak S3 do) lets two processes, or one and its own repeated request, each take their commit for the first: rows
//! would be lost or doubled without a word.

use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path};

use super::table::Root;
use crate::SinkError;

/// Folder of the objects that show it; each is removed again.
const FOLDER: &str = "_varta_probe";

/// Shows that the store of this root creates once.
///
/// # Errors
/// Fatal on one that does not.
pub(super) async fn try_out(root: &Root) -> Result<(), SinkError> {
    let store = root.log_store(FOLDER)?;
    let outcome = creates_once(&*store.object_store(None), &root.location).await;
    if !root.location.contains("://") {
        // Another process may have a probe there at this moment.
        let _ = fs_err::remove_dir(std::path::Path::new(&root.location).join(FOLDER));
    }
    outcome
}

async fn creates_once(objects: &dyn ObjectStore, location: &str) -> Result<(), SinkError> {
    let path = Path::from(uuid::Uuid::new_v4().to_string());
    first(create(objects, &path).await, location)?;
    let again = create(objects, &path).await;
    if let Err(error) = objects.delete(&path).await {
        tracing::debug!(location, %path, %error, "a probe stays");
    }
    match again {
        Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Ok(()) => Err(unfit(location, "overwrites an object that was to be created")),
        Err(error) => first(Err(error), location),
    }
}

async fn create(objects: &dyn ObjectStore, path: &Path) -> Result<(), object_store::Error> {
    let payload = PutPayload::from_static(b"may be removed");
    objects.put_opts(path, payload, PutOptions::from(PutMode::Create)).await.map(|_| ())
}

fn first(outcome: Result<(), object_store::Error>, location: &str) -> Result<(), SinkError> {
    outcome.map_err(|error| match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            unfit(location, "cannot create an object only if it is not there")
        }
        other => SinkError::unavailable(location, other),
    })
}

fn unfit(location: &str, why: &str) -> SinkError {
    SinkError::Fatal(format!(
        "the store of {location} {why}: commits would overwrite each other; the lake needs a store with conditional \
         writes (put if absent)"
    ))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt};

    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
        PutResult, Result, memory::InMemory,
    };

    use super::*;

    /// Passes everything on; what it makes of "create" can be chosen.
    #[derive(Debug)]
    struct Careless {
        inside: InMemory,
        knows_create: bool,
    }

    impl fmt::Display for Careless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("careless")
        }
    }

    #[async_trait]
    impl ObjectStore for Careless {
        async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            if options.mode == PutMode::Create && !self.knows_create {
                let (operation, implementer) = ("put".to_owned(), "careless".to_owned());
                return Err(object_store::Error::NotImplemented { operation, implementer });
            }
            self.inside.put_opts(to, payload, PutOptions::default()).await
        }

        async fn put_multipart_opts(
            &self,
            to: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inside.put_multipart_opts(to, options).await
        }

        async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
            self.inside.get_opts(from, options).await
        }

        fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inside.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inside.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inside.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inside.copy_opts(from, to, options).await
        }
    }

    async fn objects(store: &dyn ObjectStore) -> usize {
        store.list_with_delimiter(None).await.unwrap().objects.len()
    }

    #[tokio::test]
    async fn a_store_that_creates_once_is_taken_and_left_as_it_was() {
        let store = InMemory::new();
        creates_once(&store, "memory").await.unwrap();
        assert_eq!(objects(&store).await, 0);
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("lake").to_str().unwrap().to_owned();
        try_out(&Root { location: location.clone(), options: BTreeMap::new() }).await.unwrap();
        assert_eq!(fs_err::read_dir(location).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_store_that_overwrites_or_knows_no_create_is_refused_for_good() {
        for knows_create in [true, false] {
            let store = Careless { inside: InMemory::new(), knows_create };
            let error = creates_once(&store, "s3://bucket/lake").await.unwrap_err();
            assert!(matches!(error, SinkError::Fatal(_)), "{error}");
            assert!(error.to_string().contains("s3://bucket/lake"), "{error}");
            assert_eq!(objects(&store).await, 0);
        }
    }
}
