//! Keeps the guests of QEMU's user network from the host itself. To QEMU's network the host's
//! 127.0.0.1 is 10.0.2.2, and a guest that makes its own frames reaches every address of the
//! host: its local services, and the forwarded ports of other VMs. QEMU has no option against it
//! that leaves the Internet, so the host's firewall refuses what QEMU's user asks of the host.
//!
//! That takes root, and a user of QEMU's own: rules by the user cannot tell QEMU from its starter
//! where both are one.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use serde_json::{Value, json};

use crate::state::VmName;

/// Whose connections are kept from the host, for which VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The VM.
    pub name: VmName,
    /// The user that its QEMU runs as, and nobody else does.
    pub uid: u32,
    /// A file that says that there are rules, for who cleans up behind a supervisor that was
    /// killed.
    pub marker: PathBuf,
}

impl Guard {
    /// The guard of the VM whose directory is `dir`.
    #[must_use]
    pub fn new(name: VmName, uid: u32, dir: &Path) -> Self {
        Self { name, uid, marker: dir.join(super::attach::MARKER) }
    }
}

/// The table of a VM's rules.
pub(super) fn table(name: &VmName) -> Value {
    let hash = Sha256Hash::of(name.as_str().as_bytes()).to_string();
    json!({"family": "inet", "name": format!("casemate_user_{}", &hash[..10])})
}

/// Refuses what the user asks of an address of this host, and answers where it asks names of one.
/// Answers to who connects to a forwarded port pass: they begin no connection.
pub(super) fn rules(guard: &Guard, resolvers: &[IpAddr]) -> Value {
    let table = table(&guard.name);
    let (family, name) = (&table["family"], &table["name"]);
    let is =
        |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let theirs = is(json!({"meta": {"key": "skuid"}}), json!(guard.uid));
    let to_host = is(json!({"fib": {"result": "type", "flags": ["daddr"]}}), json!("local"));
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
    rules.push(json!([theirs, to_host, begins, {"reject": {"type": "tcp reset"}}]));
    rules.push(json!([theirs, to_host, not_tcp, {"reject": {"type": "icmpx", "expr": "port-unreachable"}}]));
    let mut commands = vec![
        json!({"add": {"table": table}}),
        json!({"delete": {"table": table}}),
        json!({"add": {"table": table}}),
        json!({"add": {"chain": {
            "family": family, "table": name, "name": "output",
            "type": "filter", "hook": "output", "prio": 0, "policy": "accept",
        }}}),
    ];
    commands.extend(rules.into_iter().map(|expressions| {
        json!({"add": {"rule": {
            "family": family, "table": name, "chain": "output", "expr": expressions,
        }}})
    }));
    json!({"nftables": commands})
}

/// Whom QEMU asks for names in the guest's place.
pub(super) fn resolvers(root: &Path) -> Vec<IpAddr> {
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
