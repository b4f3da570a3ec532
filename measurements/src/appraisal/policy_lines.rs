//! A policy read back: every field and what it accepts.

use std::fmt;

use serde::Serialize;

use super::expect::Expect;
use super::id_block::IdRule;
use super::policy::{GuestPolicyRule, Origin, Policy, Releases, RevocationPolicy, UnlistedShapes};
use super::rules::{AnswerTime, Expiry};

/// A field of a policy and what it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The field, as in a policy file.
    pub field: &'static str,
    /// What it accepts.
    pub accepts: String,
    /// Whether it leaves something open: then the verdict does not judge it.
    pub open: bool,
    /// Who stated it.
    pub source: String,
}

/// A field, what it accepts, and whether that is anything.
type Field = (&'static str, String, bool);

fn one<T: fmt::Display + PartialEq>(field: &'static str, expected: &Expect<T>) -> Field {
    (field, expected.to_string(), *expected == Expect::Any)
}

fn rule<T: fmt::Display + PartialEq>(field: &'static str, rule: &IdRule<T>) -> Field {
    (field, rule.to_string(), *rule == IdRule::Is(Expect::Any))
}

fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>, none: &str) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { none.to_owned() } else { items.join("; ") }
}

impl Policy {
    /// Every field with what it accepts, in the order of a policy file.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let fields = [self.of_evidence(), self.of_releases(), self.of_machine(), self.of_gpus()];
        let line = |(field, accepts, open)| {
            let source = match self.stated.get(field) {
                Some(Origin::File) => "policy file",
                Some(Origin::Option) => "option",
                Some(Origin::OwnKeys) => "your own keys",
                None => "default",
            };
            Line { field, accepts, open, source: source.to_owned() }
        };
        fields.into_iter().flatten().map(line).collect()
    }

    fn of_evidence(&self) -> Vec<Field> {
        let (revocation, when_given) = match self.revocation {
            RevocationPolicy::Required => ("required", false),
            RevocationPolicy::WhenGiven => ("when-given", true),
        };
        vec![
            ("expires", self.expires.to_string(), self.expires == Expiry::Never),
            one("platform", &self.platform),
            ("revocation_list", revocation.to_owned(), when_given),
            ("answer_seconds", self.answer_time.to_string(), self.answer_time == AnswerTime::Any),
            match &self.guest_policy {
                GuestPolicyRule::OfManifest => ("guest_policy", "the manifest's".to_owned(), false),
                GuestPolicyRule::Is(expected) => one("guest_policy", expected),
            },
            one("vmpl", &self.vmpl),
            one("launch_config", &self.launch_config),
            one("ssh_keys", &self.ssh_keys),
        ]
    }

    /// The rules for releases, in one line.
    pub(super) fn accepted_releases(&self) -> String {
        match &self.releases {
            Releases::AsGiven => "each one given".to_owned(),
            Releases::Listed(rules) => list(rules, "none"),
        }
    }

    fn of_releases(&self) -> Vec<Field> {
        let (unlisted, by_law) = match self.shapes.unlisted {
            UnlistedShapes::Refuse => ("refuse", false),
            UnlistedShapes::AcceptByLaw => ("accept-by-law", true),
        };
        let id_block = &self.id_block;
        vec![
            ("release", self.accepted_releases(), self.releases == Releases::AsGiven),
            ("revoked", list(&self.revoked, "none"), self.revoked.is_empty()),
            one("shapes.vcpus", &self.shapes.vcpus),
            one("shapes.cpu_models", &self.shapes.cpu_models),
            ("shapes.unlisted", unlisted.to_owned(), by_law),
            rule("id_block.family_id", &id_block.family_id),
            rule("id_block.image_id", &id_block.image_id),
            ("id_block.least_guest_svn", id_block.least_guest_svn.to_string(), false),
            rule("id_block.id_key", &id_block.id_key),
            rule("id_block.author_key", &id_block.author_key),
        ]
    }

    fn of_machine(&self) -> Vec<Field> {
        let floor = self.tcb_floor.iter().map(|(line, tcb)| format!("{line}: {tcb}"));
        let (machine, chips) = (&self.machine, &self.chips);
        vec![
            ("tcb_floor", list(floor, "no processor"), false),
            one("machine.smt", &machine.smt),
            one("machine.tsme", &machine.tsme),
            one("machine.ecc", &machine.ecc),
            one("machine.rapl_disabled", &machine.rapl_disabled),
            one("machine.ciphertext_hiding", &machine.ciphertext_hiding),
            one("machine.alias_check", &machine.alias_check),
            one("chips.allow", &chips.allow),
            ("chips.deny", list(&chips.deny, "none"), chips.deny.is_empty()),
        ]
    }

    fn of_gpus(&self) -> Vec<Field> {
        let gpu = &self.gpu;
        let drivers = gpu.driver_floor.iter().map(|(of, least)| format!("{of}: {least}"));
        vec![
            one("gpu_evidence", &self.gpu_evidence),
            one("gpu.set", &gpu.set),
            one("gpu.architecture", &gpu.architecture),
            ("gpu.driver_floor", list(drivers, "no architecture"), false),
            one("gpu.vbios", &gpu.vbios),
            one("gpu.measurements_match", &gpu.measurements_match),
        ]
    }
}
