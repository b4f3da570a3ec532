//! The ID block that a launch is given: found among the release's, and held to the launch before
//! the security processor does.

use std::fmt;

use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::hash::LaunchDigest;
use casemate_measurements::id_block::release::{FILE_NAME, IdBlocksError};
use casemate_measurements::id_block::{self, Accepted, IdBlockError};
use casemate_measurements::identity::Identity;
use casemate_measurements::launch::Shape;
use casemate_measurements::policy::GuestPolicy;
use serde::{Deserialize, Serialize};

use crate::release::Release;

/// Why a launch has no ID block that the security processor and verifiers would take.
#[derive(Debug, thiserror::Error)]
pub enum NoIdBlock {
    /// Verifiers want one and there is none.
    #[error(
        "the manifest names the keys that must have signed an ID block, and the release has no \
         {FILE_NAME}: sign it with `casemate id-block sign`"
    )]
    Missing,
    /// The file is not of this release.
    #[error("{FILE_NAME} is refused")]
    Blocks(#[from] IdBlocksError),
    /// The block is not of this launch.
    #[error("the ID block of this shape would be refused by the security processor")]
    Block(#[from] IdBlockError),
}

/// An ID block as QEMU is given it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineIdBlock {
    /// The block.
    pub block: Base64Bytes,
    /// The ID authentication information.
    pub auth: Base64Bytes,
    /// Whether an author key is in it.
    pub author_key_enabled: bool,
}

impl MachineIdBlock {
    /// The block for a shape of a release; `None` where the release was not signed and nobody
    /// wants it to be.
    pub(crate) fn find(
        release: &Release,
        shape: &Shape,
        digest: &LaunchDigest,
    ) -> Result<Option<Self>, NoIdBlock> {
        let manifest = release.manifest();
        let Some(blocks) = release.id_blocks() else {
            let required = manifest.id_block.as_ref().is_some_and(Identity::requires_block);
            return if required { Err(NoIdBlock::Missing) } else { Ok(None) };
        };
        blocks.check_frame(manifest, release.manifest_sha256())?;
        let Some(launch) = blocks.launch(manifest, shape) else { return Ok(None) };
        let found = Self {
            block: Base64Bytes(launch.block.to_vec()),
            auth: Base64Bytes(launch.auth.to_vec()),
            author_key_enabled: launch.author_key_enabled,
        };
        found.verify(digest, manifest.guest_policy)?;
        Ok(Some(found))
    }

    /// What the security processor makes of it at the end of a launch.
    pub(crate) fn verify(
        &self,
        digest: &LaunchDigest,
        policy: GuestPolicy,
    ) -> Result<Accepted, IdBlockError> {
        let Self { block, auth, author_key_enabled } = self;
        id_block::verify(&block.0, &auth.0, *author_key_enabled, digest, policy)
    }

    /// What it states, for a person.
    pub(crate) fn describe(&self, digest: &LaunchDigest, policy: GuestPolicy) -> String {
        self.verify(digest, policy)
            .map_or_else(|error| error.to_string(), |found| Described(found).to_string())
    }
}

struct Described(Accepted);

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Accepted { block, id_key_digest, author_key_digest } = &self.0;
        write!(f, "family {}, image {}, ", block.family_id, block.image_id)?;
        write!(f, "SVN {}\nID key         {id_key_digest}", block.guest_svn)?;
        match author_key_digest {
            Some(digest) => write!(f, "\nauthor key     {digest}"),
            None => Ok(()),
        }
    }
}
