//! Keeps the guests of QEMU's user network from the host itself. To QEMU's network the host's
//! 127.0.0.1 is 10.0.2.2, and a guest that makes its own frames reaches every address of the
//! host: its local services, and the forwarded ports of other VMs. QEMU has no option against it
//! that leaves the Internet, so the host's firewall refuses what QEMU's user asks of the host.
//!
//! That takes root, and a user of QEMU's own: rules by the user cannot tell QEMU from its starter
//! where both are one.
//!
//! VMs share that user, so they share a table: rules of one VM would refuse what those of another
//! allow. Each start writes the rules anew, and an empty chain for each VM says who needs them.

use std::fs::{self, File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attach::{AttachError, nft};
use crate::state::{self, StateError};

/// The rules' two chains, and when they see a packet: before the rules of others change where it
/// goes, as containers' do at -100, and after that.
const CHAINS: [(&str, i32); 2] = [("before", -150), ("after", 0)];
/// How the chain of a VM begins.
const VM: &str = "vm_";

/// Whose connections are kept from the host, for which VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The user that its QEMU runs as, and nobody else does.
    pub uid: u32,
    /// A file of the VM's directory that holds this, for who cleans up behind a supervisor that
    /// was killed.
    pub marker: PathBuf,
}

impl Guard {
    /// The guard of the VM whose directory is `dir`.
    #[must_use]
    pub fn new(uid: u32, dir: &Path) -> Self {
        Self { uid, marker: dir.join(super::attach::MARKER) }
    }

    /// Keeps the user from the host, and counts the VM among those that need it.
    pub(super) fn begin(&self) -> Result<(), AttachError> {
        let fail = |source| AttachError::Mark { source };
        state::write_json(&self.marker, self).map_err(fail)?;
        let _lock = lock().map_err(fail)?;
        let rules = rules(self, &resolvers(Path::new("/")));
        nft(&["-f", "-"], &rules).map(drop).map_err(|source| AttachError::Guard { source })
    }

    /// Counts the VM no more; the rules go with the last one. They may be gone already, so
    /// nothing that fails is told.
    pub(super) fn end(&self) {
        let Ok(_lock) = lock() else { return };
        let table = self.table();
        let name = table["name"].as_str().unwrap_or_default();
        let Ok(listed) = nft(&["list", "table", "inet", name], &Value::Null) else { return };
        let listed: Value = serde_json::from_slice(&listed).unwrap_or_default();
        let own = self.chain();
        let chains = listed["nftables"].as_array().into_iter().flatten();
        let mut names = chains.filter_map(|item| item.pointer("/chain/name")?.as_str());
        let unneeded = if names.any(|name| name.starts_with(VM) && name != own) {
            json!({"chain": {"family": table["family"], "table": name, "name": own}})
        } else {
            json!({"table": table})
        };
        let _ = nft(&["-f", "-"], &json!({"nftables": [{"delete": unneeded}]}));
    }

    /// The table of the user's rules.
    fn table(&self) -> Value {
        json!({"family": "inet", "name": format!("casemate_user_{}", self.uid)})
    }

    /// The chain that stands for the VM.
    fn chain(&self) -> String {
        let hash = Sha256Hash::of(self.marker.as_os_str().as_bytes()).to_string();
        format!("{VM}{}", &hash[..16])
    }
}

/// Takes the lock under which rules change; it is free when the file is dropped. It is the
/// host's, as the rules are, wherever VMs have their directories.
fn lock() -> Result<File, StateError> {
    let dir = Path::new("/run/casemate");
    state::make_private(dir)?;
    let path = dir.join("guards.lock");
    let fail = |source| StateError::Write { path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(fail)?;
    file.lock().map_err(fail)?;
    Ok(file)
}

/// Refuses what the user asks of an address of this host, and datagrams to many, which arrive at
/// this host too; allows that it asks names of one. Answers to who connects to a forwarded port
/// pass: they begin no connection.
fn rules(guard: &Guard, resolvers: &[IpAddr]) -> Value {
    let table = guard.table();
    let (family, name) = (&table["family"], &table["name"]);
    let is =
        |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let theirs = is(json!({"meta": {"key": "skuid"}}), json!(guard.uid));
    let to = |kind: Value| is(json!({"fib": {"result": "type", "flags": ["daddr"]}}), kind);
    let many = json!({"set": ["local", "broadcast", "multicast"]});
    let port_unreachable = json!({"reject": {"type": "icmpx", "expr": "port-unreachable"}});
    let begins = is(json!({"&": [field("tcp", "flags"), {"|": ["syn", "ack"]}]}), json!("syn"));
    let not_tcp =
        json!({"match": {"op": "!=", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}});
    let mut rules = Vec::new();
    for resolver in resolvers {
        let protocol = if resolver.is_ipv4() { "ip" } else { "ip6" };
        let address = is(field(protocol, "daddr"), json!(resolver));
        for transport in ["udp", "tcp"] {
            let port = is(field(transport, "dport"), json!(53));
            rules.push(json!([theirs, address, port, {"accept": null}]));
        }
    }
    rules.push(json!([theirs, to(json!("local")), begins, {"reject": {"type": "tcp reset"}}]));
    rules.push(json!([theirs, to(many), not_tcp, port_unreachable]));
    let mut commands = vec![
        json!({"add": {"table": table}}),
        json!({"add": {"chain": {"family": family, "table": name, "name": guard.chain()}}}),
    ];
    for (chain, priority) in CHAINS {
        commands.push(json!({"add": {"chain": {
            "family": family, "table": name, "name": chain,
            "type": "filter", "hook": "output", "prio": priority, "policy": "accept",
        }}}));
        commands.push(json!({"flush": {"chain": {
            "family": family, "table": name, "name": chain,
        }}}));
        commands.extend(rules.iter().map(|expressions| {
            json!({"add": {"rule": {
                "family": family, "table": name, "chain": chain, "expr": expressions,
            }}})
        }));
    }
    json!({"nftables": commands})
}

/// Whom QEMU asks for names in the guest's place.
fn resolvers(root: &Path) -> Vec<IpAddr> {
    let text = fs::read_to_string(root.join("etc/resolv.conf")).unwrap_or_default();
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    words.filter_map(|rest| rest.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_those_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(resolvers(root.path()), [] as [IpAddr; 0]);
        fs::create_dir(root.path().join("etc")).unwrap();
        let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 127.0.0.53\n nameserver ::1 \n\
                    nameserver nonsense\n";
        fs::write(root.path().join("etc/resolv.conf"), text).unwrap();
        let found = resolvers(root.path());
        assert_eq!(found, ["127.0.0.53".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
    }
}
