//! A bucket of an object store as a store. Endpoint and credentials are the environment's, see
//! [`ObjectSettings`](super::ObjectSettings).

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, UpdateVersion,
};
use tokio::runtime::Runtime;

use super::layout::{Files, Loaded};
use super::object_client::{client, failed};
use super::{Options, StoreError};
use crate::reference::{Place, Service};

/// Most characters of what an object store said that are quoted.
const MAX_QUOTED: usize = 300;

/// A bucket and what every name in it begins with.
pub(super) struct Bucket {
    name: String,
    prefix: String,
    client: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client shows its credentials.
        f.debug_tuple("Bucket").field(&self.name).finish()
    }
}

/// The threads that wait for object stores: one set for the process.
fn runtime() -> Result<Arc<Runtime>, io::Error> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(Arc::clone(runtime));
    }
    // Whoever else chose a provider before is content with it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    Ok(Arc::clone(RUNTIME.get_or_init(|| Arc::new(made))))
}

impl Bucket {
    pub(super) fn open(
        service: Service,
        bucket: &str,
        prefix: &str,
        options: &Options,
    ) -> Result<Self, StoreError> {
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        let place = Place::Objects { service, bucket: bucket.clone(), prefix: prefix.clone() };
        let name = place.to_string();
        let runtime = runtime().map_err(|error| failed(&name, error.to_string()))?;
        let client = client(service, &bucket, &name, options)?;
        Ok(Self { name, prefix, client, runtime })
    }

    fn path(&self, path: &str) -> Path {
        if self.prefix.is_empty() {
            Path::from(path)
        } else {
            Path::from(format!("{}/{path}", self.prefix))
        }
    }

    fn failed(&self, what: &str, error: &Error) -> StoreError {
        let (store, what) = (self.name.clone(), what.to_owned());
        match error {
            Error::PermissionDenied { .. } => StoreError::Denied { store, what, status: 403 },
            Error::Unauthenticated { .. } => StoreError::Denied { store, what, status: 401 },
            other => {
                let reason = other.to_string().chars().take(MAX_QUOTED).collect();
                // The client has repeated what is worth it.
                StoreError::Transport { store, what, reason, again: false }
            }
        }
    }

    fn get(&self, path: &str, from: u64) -> Result<Option<GetResult>, StoreError> {
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { range, ..GetOptions::default() };
        match self.runtime.block_on(self.client.get_opts(&self.path(path), options)) {
            Ok(result) => Ok(Some(result)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    /// Puts an object; `None` where `mode` forbids it.
    fn put(&self, path: &str, bytes: &[u8], mode: PutMode) -> Result<Option<()>, StoreError> {
        let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
        let options = PutOptions::from(mode);
        match self.runtime.block_on(self.client.put_opts(&self.path(path), payload, options)) {
            Ok(_) => Ok(Some(())),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(None),
            Err(error) => Err(self.failed(path, &error)),
        }
    }
}

impl Files for Bucket {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        match self.runtime.block_on(self.client.head(&self.path(path))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(path, &error)),
        }
    }

    fn read(
        &self,
        path: &str,
        from: u64,
        _rest: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let Some(result) = self.get(path, from)? else { return Ok(None) };
        let (stream, runtime) = (result.into_stream(), Arc::clone(&self.runtime));
        Ok(Some(Box::new(Body { stream, runtime, rest: Bytes::new() })))
    }

    fn create(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        // One that is there has these bytes or none that anybody accepts.
        self.put(path, bytes, PutMode::Create).map(drop)
    }

    fn load(&self, path: &str, most: usize) -> Result<Option<Loaded>, StoreError> {
        let Some(result) = self.get(path, 0)? else { return Ok(None) };
        let version = result.meta.e_tag.clone();
        let (stream, runtime) = (result.into_stream(), Arc::clone(&self.runtime));
        let mut bytes = Vec::new();
        let body = Body { stream, runtime, rest: Bytes::new() };
        let (store, what) = (self.name.clone(), path.to_owned());
        match body.take(most as u64 + 1).read_to_end(&mut bytes) {
            Ok(len) if len > most => Err(StoreError::TooLong { store, what, most: most as u64 }),
            Ok(_) => Ok(Some(Loaded { bytes, version })),
            Err(error) => {
                let reason = error.to_string();
                Err(StoreError::Transport { store, what, reason, again: true })
            }
        }
    }

    fn swap(&self, path: &str, bytes: &[u8], was: Option<&Loaded>) -> Result<bool, StoreError> {
        let mode = match was {
            None => PutMode::Create,
            Some(was) => {
                let e_tag = was.version.clone();
                PutMode::Update(UpdateVersion { e_tag, version: None })
            }
        };
        Ok(self.put(path, bytes, mode)?.is_some())
    }
}

/// An object's bytes as they come.
struct Body {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    runtime: Arc<Runtime>,
    rest: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(error)) => {
                    let text: String = error.to_string().chars().take(MAX_QUOTED).collect();
                    return Err(io::Error::other(text));
                }
            }
        }
        let len = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}
