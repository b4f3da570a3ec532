//! The next version of an index.

use casemate_measurements::hash::Sha256Hash;

use super::format::{Entry, Index, Revocation, Time};

/// Why an index is not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A release of that name has other bytes.
    #[error(
        "{name} {version} is in the index with manifest {listed}, this one is {given}: a version \
         is published once; give the release another version"
    )]
    Taken {
        /// Name of the image.
        name: String,
        /// Its version.
        version: String,
        /// The manifest listed.
        listed: Sha256Hash,
        /// The manifest given.
        given: Sha256Hash,
    },
    /// It is revoked.
    #[error("{name} {version} is revoked: {reason}")]
    Revoked {
        /// Name of the image.
        name: String,
        /// Its version.
        version: String,
        /// Why.
        reason: String,
    },
    /// It is revoked already.
    #[error("{manifest} is revoked already, since {since}: {reason}")]
    Already {
        /// The manifest.
        manifest: Sha256Hash,
        /// Since when.
        since: Time,
        /// Why.
        reason: String,
    },
}

/// A change of an index.
#[derive(Debug, Clone)]
pub enum Change {
    /// A release is there, and current in its channels: what was current there no longer is.
    Add(Entry),
    /// A release may not be used any more.
    Revoke(Revocation),
    /// The least version of an image.
    Minimum {
        /// Name of the image.
        name: String,
        /// The version.
        version: String,
    },
}

impl Index {
    /// An empty index, before its first version.
    #[must_use]
    pub fn empty(name: &str) -> Self {
        Self {
            schema: Self::SCHEMA,
            name: name.to_owned(),
            version: 0,
            issued: Time(0),
            expires: Time(0),
            minimum: std::collections::BTreeMap::new(),
            releases: Vec::new(),
            revoked: Vec::new(),
        }
    }

    /// The next version, which holds from `now` for `seconds`.
    ///
    /// # Errors
    /// When a change contradicts what is there.
    pub fn next(
        &self,
        changes: impl IntoIterator<Item = Change>,
        now: Time,
        seconds: u64,
    ) -> Result<Self, EditError> {
        let mut next = self.clone();
        next.version += 1;
        next.issued = now;
        next.expires = Time(now.0.saturating_add(seconds));
        for change in changes {
            match change {
                Change::Add(entry) => next.add(entry)?,
                Change::Revoke(revocation) => next.revoke(revocation)?,
                Change::Minimum { name, version } => {
                    next.minimum.insert(name, version);
                }
            }
        }
        Ok(next)
    }

    fn add(&mut self, entry: Entry) -> Result<(), EditError> {
        let Entry { name, version, platform, manifest_sha256: given, channels, .. } = &entry;
        if let Some(revoked) = self.revoked.iter().find(|entry| entry.manifest_sha256 == *given) {
            let reason = revoked.reason.clone();
            return Err(EditError::Revoked {
                name: name.clone(),
                version: version.clone(),
                reason,
            });
        }
        for other in &mut self.releases {
            if (&other.name, other.platform) == (name, *platform) {
                other.channels.retain(|channel| !channels.contains(channel));
            }
        }
        let same = |other: &&mut Entry| {
            (&other.name, &other.version, other.platform) == (name, version, *platform)
        };
        match self.releases.iter_mut().find(same) {
            Some(other) if other.manifest_sha256 != *given => Err(EditError::Taken {
                name: name.clone(),
                version: version.clone(),
                listed: other.manifest_sha256,
                given: *given,
            }),
            Some(other) => {
                other.channels.extend(entry.channels);
                other.artifact_sha256 = entry.artifact_sha256.or(other.artifact_sha256);
                Ok(())
            }
            None => {
                self.releases.push(entry);
                self.releases.sort_by(|a, b| {
                    (&a.name, &a.version, a.platform).cmp(&(&b.name, &b.version, b.platform))
                });
                Ok(())
            }
        }
    }

    /// A revoked release stays listed, so that a reader learns what became of it; it is current
    /// nowhere.
    fn revoke(&mut self, revocation: Revocation) -> Result<(), EditError> {
        let manifest = revocation.manifest_sha256;
        if let Some(old) = self.revoked.iter().find(|old| old.manifest_sha256 == manifest) {
            let (since, reason) = (old.since, old.reason.clone());
            return Err(EditError::Already { manifest, since, reason });
        }
        for entry in self.releases.iter_mut().filter(|entry| entry.manifest_sha256 == manifest) {
            entry.channels.clear();
        }
        self.revoked.push(revocation);
        self.revoked.sort_by_key(|revoked| revoked.manifest_sha256);
        Ok(())
    }
}
