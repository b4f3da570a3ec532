//! What a judgement rests on, and the part of it that all have in common: from the bytes of a
//! report to a signature that leads to a trusted root.

use std::sync::Arc;

use crate::certificates::{CertificateTable, TableError};
use crate::chain::{EndorsedKey, UnixTime, VerifiedReport};
use crate::chain_cache::ChainCache;
use crate::platform::Platform;
use crate::report::Report;
use crate::revocation::RevocationList;
use crate::roots::Roots;
use crate::tcb::Product;

use super::gpu::{Believed, SecondOpinion};
use super::verdict::{CheckName, Recorder};

/// What a verifier's judgement rests on: whom it believes, what time it is, and what it got by
/// itself instead of from the host.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    roots: &'a Roots,
    now: UnixTime,
    certificates: Option<&'a CertificateTable>,
    revocation_lists: &'a [RevocationList],
    chains: Option<&'a ChainCache>,
    gpu_opinion: Option<&'a SecondOpinion>,
}

/// A report whose signature was verified.
pub(super) struct Judged {
    pub(super) report: VerifiedReport,
    pub(super) product: Product,
    pub(super) had_list: bool,
}

impl<'a> Basis<'a> {
    /// Believes `roots` at the verifier's time `now`, and has nothing else.
    #[must_use]
    pub const fn new(roots: &'a Roots, now: UnixTime) -> Self {
        Self {
            roots,
            now,
            certificates: None,
            revocation_lists: &[],
            chains: None,
            gpu_opinion: None,
        }
    }

    /// Takes from `table` what the evidence lacks: certificates of a cache or of AMD's key
    /// service. They are judged like the host's.
    #[must_use]
    pub const fn with_certificates(self, table: &'a CertificateTable) -> Self {
        Self { certificates: Some(table), ..self }
    }

    /// Judges revocation by the lists that the report's root issued. A host must not choose them.
    #[must_use]
    pub const fn with_revocation_lists(self, lists: &'a [RevocationList]) -> Self {
        Self { revocation_lists: lists, ..self }
    }

    /// Verifies a chain once and remembers it.
    #[must_use]
    pub const fn with_chains(self, chains: &'a ChainCache) -> Self {
        Self { chains: Some(chains), ..self }
    }

    /// Holds the GPUs also to what another verifier says of their evidence.
    #[must_use]
    pub const fn with_gpu_opinion(self, opinion: Option<&'a SecondOpinion>) -> Self {
        Self { gpu_opinion: opinion, ..self }
    }

    /// What of it GPU evidence that claims `platform` is judged by.
    pub(super) const fn believed(&self, platform: Platform) -> Believed<'a> {
        let Self { roots, now, gpu_opinion: opinion, .. } = *self;
        Believed { roots, platform, now, opinion }
    }

    pub(super) const fn now(&self) -> UnixTime {
        self.now
    }

    /// Judges a report and the certificates that came with it, recording every check; `None`
    /// when there is no verified report.
    pub(super) fn judge(
        &self,
        report: &[u8],
        table: Result<CertificateTable, TableError>,
        platform: Platform,
        recorder: &mut Recorder<'_>,
    ) -> Option<Judged> {
        let report = recorder.step(
            CheckName::Report,
            "a report of version 2 to 5",
            Report::parse(report),
            |report| format!("version {}", report.version().number()),
        )?;
        let expected = format!("a chain to a root trusted for {platform}");
        let table = match table {
            Ok(table) => table.or(self.certificates.cloned().unwrap_or_default()),
            Err(error) => {
                recorder.record(CheckName::Chain, false, &expected, &error);
                return None;
            }
        };
        let (roots, now) = (self.roots, self.now);
        let key = match self.chains {
            Some(chains) => chains.verify(&table, &report, platform, roots, now),
            None => EndorsedKey::verify(&table, &report, platform, roots, now).map(Arc::new),
        };
        let key = recorder.step(CheckName::Chain, &expected, key, |key| {
            format!("{} of {} under {}", key.role(), key.product(), key.root())
        })?;
        let had_list = self.judge_revocation(&key, recorder);
        judge_endorsement(&key, &report, recorder);
        let expected = format!("a signature of the {}", key.role());
        let report =
            recorder.step(CheckName::Signature, &expected, key.verify_signature(report), |_| {
                "valid over the bytes received".to_owned()
            })?;
        Some(Judged { report, product: key.product(), had_list })
    }

    /// Whether there was a list to judge by.
    fn judge_revocation(&self, key: &EndorsedKey, recorder: &mut Recorder<'_>) -> bool {
        let (name, root) = (CheckName::Revocation, key.root());
        let expected = format!("a current list of {root} that names none of the chain");
        match key.check_revocation(self.revocation_lists, self.now) {
            Ok(None) => {
                let why = format!("not judged: no revocation list of {root} given");
                recorder.skip(name, &expected, &why);
                false
            }
            judged => {
                let until = |until: &Option<UnixTime>| match until {
                    Some(until) => {
                        format!("none is in the list of {root}, which speaks to {until}")
                    }
                    None => String::new(),
                };
                recorder.step(name, &expected, judged, until);
                true
            }
        }
    }
}

/// Holds TCB and chip of the report to what its key is endorsed for.
fn judge_endorsement(key: &EndorsedKey, report: &Report, recorder: &mut Recorder<'_>) {
    let endorsed = key.endorsed_tcb().map_or_else(|error| error.to_string(), |tcb| tcb.to_string());
    recorder.step(CheckName::EndorsedTcb, &endorsed, key.check_tcb(report), ToString::to_string);
    let (name, expected) = (CheckName::Chip, "the chip of the certificate");
    match key.check_chip(report) {
        Ok(false) => {
            recorder.skip(name, &"a chip", "a provider's key (VLEK) is endorsed for no chip");
        }
        judged => {
            let chip = report.chip_id();
            recorder.step(name, expected, judged, |_| chip.to_string());
        }
    }
}
