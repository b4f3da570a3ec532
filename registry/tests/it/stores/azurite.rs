//! Azurite, the blob server of Azure's own stand-in.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use casemate_registry::store::ObjectSettings;

use super::programs::peer;

/// The account.
const ACCOUNT: &str = "casemate";
/// Its key, in base64.
const KEY: &str = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMjIyMjI=";

/// A container that only who is known reads.
pub(crate) const CLOSED: &str = "container";
/// A container that anyone reads.
pub(crate) const OPEN: &str = "open";

/// Where the server is, and a token that may read and write objects.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Azurite {
    endpoint: String,
    sas: String,
}

/// Azurite's blob server. It starts once for all tests, and ends with them.
pub(crate) fn azurite() -> Option<&'static Azurite> {
    static SERVER: OnceLock<Option<Azurite>> = OnceLock::new();
    let start = || {
        let folder = peer("azurite.sh")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/azurite/server.cjs");
        let mut command = Command::new("node");
        command.arg(script).arg(&folder).args([CLOSED, OPEN]).current_dir(&folder);
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        // It must not outlive the tests: it ends when its standard input does.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        std::mem::forget(child);
        let said = serde_json::from_str(&line);
        Some(said.unwrap_or_else(|error| panic!("azurite said {line:?}: {error}")))
    };
    SERVER.get_or_init(start).as_ref()
}

impl Azurite {
    /// Settings by which the account itself asks.
    pub(crate) fn by_key(&self) -> ObjectSettings {
        self.settings(&[("AZURE_STORAGE_ACCOUNT_KEY", KEY)])
    }

    /// Settings by which whoever has a token asks, and the token's signature as it stands in it.
    pub(crate) fn by_token(&self) -> (ObjectSettings, &str) {
        let (_, signature) = self.sas.split_once("sig=").unwrap();
        (self.settings(&[("AZURE_STORAGE_SAS_TOKEN", &self.sas)]), signature)
    }

    /// Settings of this server, and more.
    pub(crate) fn settings(&self, more: &[(&str, &str)]) -> ObjectSettings {
        let own = [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ENDPOINT", self.endpoint.as_str()),
        ];
        let all = own.iter().chain(more);
        ObjectSettings::from_environment(all.map(|(name, value)| (name.into(), value.into())))
    }
}
