//! Making a VM's interface and its filter, and removing both when the VM has gone.
//!
//! What a supervisor that was killed left behind is removed when its VM is next listed, stopped
//! or started; see [`clear`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::outside::{OutsideError, Program};
use crate::state::{self, StateError};

use super::own::Guard;
use super::{Interface, Link, Mac};

/// The file of a VM's directory that says that its guest is kept from the host.
pub(super) const MARKER: &str = "guarded";
/// How long `ip` and `nft` may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Why a VM has no network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface cannot be made.
    #[error("cannot make the interface {interface}")]
    Interface {
        /// Which.
        interface: Interface,
        /// Why.
        source: OutsideError,
    },
    /// Its filter cannot be made.
    #[error("cannot make the filter of {interface}")]
    Filter {
        /// Of which interface.
        interface: Interface,
        /// Why.
        source: OutsideError,
    },
    /// The guest cannot be kept from the host.
    #[error("cannot write down that the guest's connections are kept from this host")]
    Mark {
        /// Why.
        source: StateError,
    },
    /// The guest cannot be kept from the host.
    #[error("cannot keep the guest's connections from this host")]
    Guard {
        /// Why.
        source: OutsideError,
    },
    /// Another VM has it.
    #[error("{interface} is in use by another VM of the same name")]
    InUse {
        /// Which.
        interface: Interface,
    },
    /// QEMU cannot be handed the interface.
    #[error("cannot open {}", path.display())]
    Open {
        /// Its device.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl AttachError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Interface { .. } => {
                "run as root, and name a bridge or interface that exists (`ip link`)"
            }
            Self::Filter { .. } => "install nftables, and load the module nf_tables",
            Self::Mark { .. } => "is the disk full or read-only?",
            Self::Guard { .. } => {
                "install nftables, load the modules nf_tables and nft_fib_inet, and give the \
                 daemon CAP_NET_ADMIN (`casemate serve --print-unit service`), or choose a network \
                 that needs no filter: kind = \"isolated\" in launch.toml"
            }
            Self::InUse { .. } => "stop that VM or choose another name",
            Self::Open { .. } => "run as root, and load the module macvtap",
        }
    }
}

/// The interface and filter of a VM, removed when this is dropped.
#[derive(Debug)]
pub struct Attached {
    link: Link,
    guard: Option<Guard>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        remove(&self.link);
        if let Some(guard) = &self.guard {
            guard.end();
            let _ = fs::remove_file(&guard.marker);
        }
    }
}

impl Attached {
    /// Makes what a link needs; nothing is left of it when something fails.
    ///
    /// # Errors
    /// When the interface or its filter cannot be made, or another VM has it.
    pub fn new(link: &Link, guard: Option<Guard>) -> Result<Self, AttachError> {
        let Some(interface) = link.interface() else { return Self::user(link, guard) };
        if is_in_use(interface) {
            return Err(AttachError::InUse { interface: interface.clone() });
        }
        remove(link);
        let attached = Self { link: link.clone(), guard: None };
        let made = |source| AttachError::Interface { interface: interface.clone(), source };
        let name = interface.as_str();
        match link {
            Link::User | Link::Isolated => {}
            Link::Tap { bridge, mac, open, .. } => {
                ip(&["tuntap", "add", "dev", name, "mode", "tap"]).map_err(made)?;
                let filter = |source| AttachError::Filter { interface: interface.clone(), source };
                // The filter first: no frame passes without it.
                nft(&["-f", "-"], &rules(interface, *mac, open)).map_err(filter)?;
                ip(&["link", "set", "dev", name, "master", bridge.as_str(), "up"]).map_err(made)?;
            }
            Link::Macvtap { parent, mac, .. } => {
                let (parent, mac) = (parent.as_str(), mac.to_string());
                let kind = ["type", "macvtap", "mode", "bridge"];
                let link = ["link", "add", "link", parent, "name", name, "address", &mac];
                ip(&[&link[..], &kind[..]].concat()).map_err(made)?;
                ip(&["link", "set", "dev", name, "up"]).map_err(made)?;
            }
        }
        Ok(attached)
    }

    /// A user network needs nothing, but where its guest can be kept from the host it is.
    fn user(link: &Link, guard: Option<Guard>) -> Result<Self, AttachError> {
        let guard = guard.filter(|_| *link == Link::User);
        let attached = Self { link: link.clone(), guard };
        attached.guard.as_ref().map_or(Ok(()), Guard::begin)?;
        Ok(attached)
    }
}

/// What QEMU gets as its standard input: a macvtap, or nothing.
///
/// # Errors
/// When the macvtap cannot be opened.
pub(crate) fn standard_input(link: &Link) -> Result<Stdio, AttachError> {
    let Link::Macvtap { interface, .. } = link else { return Ok(Stdio::null()) };
    let path = device(interface);
    let file = open(&path).map_err(|source| AttachError::Open { path, source })?;
    Ok(file.into())
}

/// The device of a macvtap.
fn device(interface: &Interface) -> PathBuf {
    let path = class(interface).join("ifindex");
    let index = fs::read_to_string(path).unwrap_or_default();
    Path::new("/dev").join(format!("tap{}", index.trim()))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn class(interface: &Interface) -> PathBuf {
    Path::new("/sys/class/net").join(interface.as_str())
}

/// Whether a process has the interface open: a tap has a carrier then, and a macvtap cannot be
/// opened twice.
fn is_in_use(interface: &Interface) -> bool {
    if !class(interface).exists() {
        return false;
    }
    if class(interface).join("tun_flags").exists() {
        let carrier = fs::read_to_string(class(interface).join("carrier"));
        return carrier.is_ok_and(|text| text.trim() == "1");
    }
    open(&device(interface)).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
}

/// Removes interface and filter. Neither may be there, so nothing that fails is told.
fn remove(link: &Link) {
    let Some(interface) = link.interface() else { return };
    if class(interface).exists() {
        let _ = ip(&["link", "delete", "dev", interface.as_str()]);
    }
    if matches!(link, Link::Tap { .. }) {
        let _ = nft(&["-f", "-"], &json!({"nftables": [{"delete": {"table": table(interface)}}]}));
    }
}

/// Removes what the VM left whose plan this is, if nobody uses it.
pub(crate) fn clear(path: &Path) {
    let plan = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let link = plan.as_ref().and_then(|plan| plan.pointer("/machine/network").cloned());
    let link = link.and_then(|link| serde_json::from_value::<Link>(link).ok());
    if let Some(link) = link
        && link.interface().is_some_and(|interface| !is_in_use(interface))
    {
        remove(&link);
    }
    if let Ok(Some(guard)) = state::read_json::<Guard>(&path.with_file_name(MARKER)) {
        guard.end();
    }
}

fn ip(arguments: &[&str]) -> Result<(), OutsideError> {
    Program::new("ip").with(arguments).run(b"", LIMIT).map(drop)
}

/// What `nft` says, which reads `commands` where the arguments make it.
pub(super) fn nft(arguments: &[&str], commands: &Value) -> Result<Vec<u8>, OutsideError> {
    let text = commands.to_string();
    Program::new("nft").with(["-j"]).with(arguments.iter().copied()).run(text.as_bytes(), LIMIT)
}

fn table(interface: &Interface) -> Value {
    let name = interface.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    json!({"family": "bridge", "name": format!("casemate_{name}")})
}

/// What may pass between a tap and its bridge: of the VM's own address alone, nothing by which
/// it would run the network of others, and to it only connections to its open ports.
fn rules(interface: &Interface, mac: Mac, open: &[u16]) -> Value {
    let table = table(interface);
    let (family, name) = (&table["family"], &table["name"]);
    let mut commands = vec![
        json!({"add": {"table": table}}),
        json!({"delete": {"table": table}}),
        json!({"add": {"table": table}}),
    ];
    let field =
        |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let is =
        |left: &Value, right: &Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let is_not =
        |left: &Value, right: &Value| json!({"match": {"op": "!=", "left": left, "right": right}});
    let at = |key: &str| is(&json!({"meta": {"key": key}}), &json!(interface.as_str()));
    let (from, to) = (at("iifname"), at("oifname"));
    let drop = json!({"drop": null});
    let syn = json!({"&": [field("tcp", "flags"), {"|": ["syn", "ack"]}]});
    let mut opens = vec![to, is(&syn, &json!("syn"))];
    if !open.is_empty() {
        opens.push(is_not(&field("tcp", "dport"), &json!({"set": open})));
    }
    let outward = [
        vec![from.clone(), is_not(&field("ether", "saddr"), &json!(mac))],
        vec![from.clone(), is(&field("udp", "sport"), &json!(67))],
        vec![from, is(&field("icmpv6", "type"), &json!("nd-router-advert"))],
    ];
    for chain in ["forward", "input"] {
        commands.push(json!({"add": {"chain": {
            "family": family, "table": name, "name": chain,
            "type": "filter", "hook": chain, "prio": 0, "policy": "accept",
        }}}));
        let inward = (chain == "forward").then(|| opens.clone());
        for mut expressions in outward.iter().cloned().chain(inward) {
            expressions.push(drop.clone());
            commands.push(json!({"add": {"rule": {
                "family": family, "table": name, "chain": chain, "expr": expressions,
            }}}));
        }
    }
    json!({"nftables": commands})
}
