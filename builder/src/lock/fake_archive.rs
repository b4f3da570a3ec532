//! A small signed archive on a loopback server, for tests that make locks from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use casemate_measurements::hash::Sha256Hash;

use super::{LockOptions, LockSummary, ResolveError, lock};
use crate::archive::Mirrors;
use crate::fetch::test_server::Server;
use crate::fetch::{Cache, FetchOptions, Patience};
use crate::process::Process;
use crate::progress::Progress;
use crate::recipe::PackageName;

/// A key that signs, in a home of its own.
#[derive(Debug)]
pub(super) struct Key {
    home: tempfile::TempDir,
    pub(super) fingerprint: String,
}

impl Key {
    pub(super) fn make() -> Self {
        let home = tempfile::Builder::new().prefix("cm-gpg-").tempdir_in("/tmp").unwrap();
        let gpg = || Process::new("gpg").arg("--homedir").arg(home.path()).arg("--batch");
        gpg()
            .args(["--passphrase", "", "--quick-gen-key", "test", "ed25519", "sign", "never"])
            .run()
            .expect("these tests need gpg, Debian's package gnupg");
        let listed = gpg().args(["--with-colons", "--list-keys"]).run().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        let fingerprint = line.split(':').nth(9).unwrap().to_owned();
        Self { home, fingerprint }
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let gpg = Process::new("gpg").arg("--homedir").arg(self.home.path()).arg("--batch");
        gpg.args(args).input(input).run().unwrap().stdout
    }

    pub(super) fn sign(&self, text: &str) -> Vec<u8> {
        self.run(&["--clearsign", "--output", "-"], text.as_bytes())
    }

    /// The public key in a file: armoured, as apt's folders have it too.
    pub(super) fn export(&self) -> PathBuf {
        let path = self.home.path().join("archive.asc");
        std::fs::write(&path, self.run(&["--armor", "--export"], b"")).unwrap();
        path
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let kill = Process::new("gpgconf").arg("--homedir").arg(self.home.path());
        // The agent also ends by itself once its folder is gone.
        let _ = kill.args(["--kill", "all"]).run();
    }
}

/// What a suite offers and says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer {
    pub(super) packages: Vec<String>,
    pub(super) sources: Vec<String>,
    pub(super) valid_until: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Archive {
    pub(super) key: Key,
    pub(super) server: Server,
    pub(super) suites: BTreeMap<&'static str, Offer>,
    pub(super) date: &'static str,
    pub(super) dir: tempfile::TempDir,
    pub(super) mirrors: Mirrors,
    pub(super) more_keyrings: Vec<PathBuf>,
}

impl Archive {
    /// An archive with the empty suites trixie and forky, and a recipe's folder.
    pub(super) fn new() -> Self {
        let server = Server::start();
        let mut mirrors = Mirrors::default();
        mirrors.set("test", &format!("debian={}", server.url("/debian"))).unwrap();
        let suites = ["trixie", "forky"].map(|name| (name, Offer::default()));
        Self {
            key: Key::make(),
            server,
            suites: suites.into(),
            date: "Sat, 12 Sep 2026 07:55:41 UTC",
            dir: tempfile::tempdir().unwrap(),
            mirrors,
            more_keyrings: Vec::new(),
        }
    }

    /// Offers a package in `suite`; `more` are further fields, each with its line feed.
    pub(super) fn offer(&mut self, suite: &'static str, name: &str, version: &str, more: &str) {
        let stanza = Self::stanza(name, version, more);
        self.suites.get_mut(suite).unwrap().packages.push(stanza);
    }

    /// What an index says of such a package.
    pub(super) fn stanza(name: &str, version: &str, more: &str) -> String {
        let deb = Self::deb(name, version, more);
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: A <a@b>\n\
             Description: test\n{more}Filename: pool/{name}_{version}.deb\nSize: {}\nSHA256: {}\n",
            deb.len(),
            Sha256Hash::of(&deb)
        )
    }

    /// Offers a source package in `suite`, with a description, the author's archive and Debian's.
    pub(super) fn offer_source(&mut self, suite: &'static str, name: &str, version: &str) {
        let upstream = version.split('-').next().unwrap();
        let line = |file: &str| {
            let path = format!("{name}_{file}");
            format!(" {} {} {path}\n", Sha256Hash::of(path.as_bytes()), path.len())
        };
        let stanza = format!(
            "Package: {name}\nBinary: x, y\nVersion: {version}\nDirectory: pool/{name}\n\
             Checksums-Sha256:\n{}{}{}Section: x\n",
            line(&format!("{version}.dsc")),
            line(&format!("{upstream}.orig.tar.xz")),
            line(&format!("{version}.debian.tar.xz")),
        );
        self.suites.get_mut(suite).unwrap().sources.push(stanza);
    }

    /// The package that [`Archive::offer`] offers.
    pub(super) fn deb(name: &str, version: &str, more: &str) -> Vec<u8> {
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: A <a@b>\n\
             Description: test\n{more}"
        );
        crate::deb::tests::deb(".xz", &control, &crate::deb::tests::tar_of(&[]))
    }

    /// Withdraws a version of a package.
    pub(super) fn withdraw(&mut self, suite: &'static str, name: &str, version: &str) {
        let start = format!("Package: {name}\nVersion: {version}\n");
        let packages = &mut self.suites.get_mut(suite).unwrap().packages;
        let before = packages.len();
        packages.retain(|stanza| !stanza.starts_with(&start));
        assert_eq!(packages.len(), before - 1);
    }

    /// The packed index of the source packages of `suite`.
    fn sources(&self, suite: &str) -> Vec<u8> {
        packed(&self.suites[suite].sources.join("\n"))
    }

    /// Serves and signs `packages` as a flat archive at `path`, signed by `key`.
    pub(super) fn publish_flat(&self, path: &str, key: &Key, packages: &str) {
        let index = packed(packages);
        let hash = Sha256Hash::of(&index);
        let release = format!(
            "Origin: Test\nDate: {}\nSHA256:\n {hash} {} Packages.gz\n",
            self.date,
            index.len()
        );
        self.server.file(&format!("{path}/InRelease"), &key.sign(&release));
        self.server.file(&format!("{path}/Packages.gz"), &index);
    }

    /// The Release file of `suite`, and its packed index.
    pub(super) fn release(&self, suite: &str) -> (String, Vec<u8>) {
        let offer = &self.suites[suite];
        let index = packed(&offer.packages.join("\n"));
        let mut text =
            format!("Origin: Test\nSuite: {suite}-alias\nCodename: {suite}\nDate: {}\n", self.date);
        if let Some(until) = offer.valid_until {
            writeln!(text, "Valid-Until: {until}").unwrap();
        }
        let hash = Sha256Hash::of(&index);
        writeln!(text, "SHA256:\n {hash} {} main/binary-amd64/Packages.gz", index.len()).unwrap();
        let sources = self.sources(suite);
        let hash = Sha256Hash::of(&sources);
        writeln!(text, " {hash} {} main/source/Sources.gz", sources.len()).unwrap();
        (text, index)
    }

    /// Serves and signs all suites.
    pub(super) fn publish(&self) {
        for suite in self.suites.keys() {
            let (text, index) = self.release(suite);
            let dists = format!("/debian/dists/{suite}");
            self.server.file(&format!("{dists}/InRelease"), &self.key.sign(&text));
            self.server.file(&format!("{dists}/main/binary-amd64/Packages.gz"), &index);
            self.server.file(&format!("{dists}/main/source/Sources.gz"), &self.sources(suite));
        }
    }

    /// Writes a recipe that asks for `guest` and leaves out `exclude`.
    pub(super) fn recipe(&self, guest: &[&str], exclude: &[&str]) {
        let mut text = RECIPE.replace("KEY", &self.key.fingerprint);
        text = text.replace("PACKAGES", &format!("{guest:?}"));
        for name in exclude {
            write!(text, "[[guest.exclude]]\npackage = \"{name}\"\nreason = \"test\"\n").unwrap();
        }
        std::fs::write(self.path().join("image.toml"), text).unwrap();
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn cache(&self) -> Cache {
        Cache::open(&self.path().join("cache")).unwrap()
    }

    /// Makes the lock: of everything, or with `update` only of these packages.
    pub(super) fn lock(
        &self,
        update: Option<&[&str]>,
        progress: &dyn Progress,
    ) -> Result<LockSummary, ResolveError> {
        self.lock_at(self.path(), update, false, progress)
    }

    /// The same for the recipe in `dir`.
    pub(super) fn lock_at(
        &self,
        dir: &Path,
        update: Option<&[&str]>,
        newest: bool,
        progress: &dyn Progress,
    ) -> Result<LockSummary, ResolveError> {
        let names = |names: &[&str]| -> Vec<PackageName> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let options = LockOptions {
            cache: self.cache(),
            mirrors: self.mirrors.clone(),
            keyrings: [vec![self.key.export()], self.more_keyrings.clone()].concat(),
            update: update.map(names),
            newest,
            fetch: FetchOptions {
                timeout: Duration::from_secs(5),
                patience: Patience { rounds: 2, pause: Duration::from_millis(1) },
                ..FetchOptions::default()
            },
            // Sunday, 1 November 2026.
            now: SystemTime::UNIX_EPOCH + Duration::from_hours(498_192),
        };
        lock(dir, &options, progress)
    }

    /// The lock's packages, as `name version closures`.
    pub(super) fn locked(&self) -> Vec<String> {
        Self::locked_at(self.path())
    }

    /// The same of the lock in `dir`.
    pub(super) fn locked_at(dir: &Path) -> Vec<String> {
        let lock = super::Lock::load(dir).unwrap();
        let line = |p: &super::LockedPackage| {
            let closures: Vec<_> = p.closures.iter().map(super::Closure::name).collect();
            format!("{} {} {}", p.name, p.version, closures.join("+"))
        };
        lock.packages().iter().map(line).collect()
    }
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

const RECIPE: &str = r#"schema = 1
name = "small"
version = "0.1.0"
epoch = 1
[archive.debian]
suites = ["trixie"]
on_request = ["forky"]
components = ["main"]
keys = ["KEY"]
[tools]
packages = ["compiler/forky"]
[firmware]
package = "ovmf/forky"
path = "/usr/share/fw.fd"
[kernel]
package = "linux-image-cloud"
cmdline = "quiet"
initrd_modules = []
[programs]
source = "."
package = "guest"
init = "init"
[units]
default = "multi-user.target"
[measure]
vcpus = [1]
cpu_models = ["EPYC-v4"]
guest_features = ["0x1"]
vmm = "qemu"
guest_policy = "0x30000"
[guest]
packages = PACKAGES
"#;
