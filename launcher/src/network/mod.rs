//! How a VM reaches others: QEMU's own user network with forwarded ports, a tap on a bridge of
//! the host, or a macvtap on one of its interfaces.
//!
//! None of it is measured, and a guest trusts none of it: its own firewall and the attested keys
//! are what holds.

mod attach;
mod own;

use std::fmt;
use std::str::FromStr;

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::machine::Forward;
use crate::state::VmName;
pub use attach::{AttachError, Attached};
pub(crate) use attach::{clear, standard_input};
pub use own::Guard;

/// Why a network is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No name of an interface.
    #[error(
        "{text:?} is no name of an interface: expected 1 to 15 of a-z, A-Z, 0-9, '.', '_', '-'"
    )]
    Interface {
        /// The text, shortened.
        text: String,
    },
    /// No address of a card.
    #[error(
        "{text:?} is no address of a network card: expected six bytes as 02:00:5e:10:00:01, the \
         first of them even"
    )]
    Mac {
        /// The text, shortened.
        text: String,
    },
}

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Interface(String);

impl Interface {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The interface that a VM of this name gets.
    #[must_use]
    pub fn of(name: &VmName) -> Self {
        let hash = Sha256Hash::of(name.as_str().as_bytes()).to_string();
        Self(format!("cm-{}", &hash[..10]))
    }
}

impl FromStr for Interface {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let plain = (1..=15).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with(['-', '.']);
        if plain {
            return Ok(Self(text.to_owned()));
        }
        Err(NetworkError::Interface { text: text.chars().take(40).collect() })
    }
}

impl TryFrom<String> for Interface {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Interface> for String {
    fn from(interface: Interface) -> Self {
        interface.0
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address that a VM of this name gets where none is given: locally administered, and
    /// the same on each host.
    #[must_use]
    pub fn of(name: &VmName) -> Self {
        let hash = Sha256Hash::of(format!("casemate-mac\0{name}").as_bytes());
        let mut bytes = [0x02; 6];
        bytes[1..].copy_from_slice(&hash.as_bytes()[..5]);
        Self(bytes)
    }
}

impl FromStr for Mac {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let byte = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        match bytes {
            // An odd first byte would be the address of a group.
            Some(bytes) if bytes[0].is_multiple_of(2) && bytes != [0; 6] => Ok(Self(bytes)),
            _ => Err(NetworkError::Mac { text: text.chars().take(40).collect() }),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.pad(&bytes.join(":"))
    }
}

/// Which network is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// QEMU's own, with forwarded ports.
    #[default]
    User,
    /// QEMU's own with forwarded ports alone: the guest can open no connection.
    Isolated,
    /// A tap that is a port of a bridge.
    Tap {
        /// The bridge, which must exist.
        bridge: Interface,
        /// The card's address, where it is not to be made from the name.
        mac: Option<Mac>,
        /// Ports of the VM that others may open connections to.
        open: Vec<u16>,
    },
    /// A macvtap: the VM stands beside the host on the host's own network.
    Macvtap {
        /// The interface of the host.
        parent: Interface,
        /// The card's address, where it is not to be made from the name.
        mac: Option<Mac>,
    },
}

impl Network {
    /// The network of a VM of this name.
    #[must_use]
    pub fn attach(&self, name: &VmName) -> Link {
        let (interface, own) = (Interface::of(name), Mac::of(name));
        match self {
            Self::User => Link::User,
            Self::Isolated => Link::Isolated,
            Self::Tap { bridge, mac, open } => {
                let (bridge, mac, open) = (bridge.clone(), mac.unwrap_or(own), open.clone());
                Link::Tap { interface, bridge, mac, open }
            }
            Self::Macvtap { parent, mac } => {
                Link::Macvtap { interface, parent: parent.clone(), mac: mac.unwrap_or(own) }
            }
        }
    }
}

/// The network of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Link {
    /// QEMU's own.
    User,
    /// QEMU's own, with forwarded ports alone.
    Isolated,
    /// A tap that is a port of a bridge.
    Tap {
        /// The tap.
        interface: Interface,
        /// The bridge.
        bridge: Interface,
        /// The card's address.
        mac: Mac,
        /// Ports that others may open connections to.
        open: Vec<u16>,
    },
    /// A macvtap, which QEMU is handed as its standard input.
    Macvtap {
        /// The macvtap.
        interface: Interface,
        /// The interface of the host.
        parent: Interface,
        /// The card's address.
        mac: Mac,
    },
}

impl Link {
    /// The interface of the host; none of a user network.
    #[must_use]
    pub fn interface(&self) -> Option<&Interface> {
        match self {
            Self::User | Self::Isolated => None,
            Self::Tap { interface, .. } | Self::Macvtap { interface, .. } => Some(interface),
        }
    }

    /// What QEMU connects the card to.
    pub(crate) fn backend(&self, forwards: &[Forward]) -> Value {
        match self {
            Self::User | Self::Isolated => {
                let forward =
                    |f: &Forward| json!({"str": format!("tcp:127.0.0.1:{}-:{}", f.host, f.guest)});
                let forwards: Vec<Value> = forwards.iter().map(forward).collect();
                let mut backend = json!({"type": "user", "id": "net0", "hostfwd": forwards});
                if *self == Self::Isolated {
                    backend["restrict"] = json!(true);
                }
                backend
            }
            Self::Tap { interface, .. } => json!({
                "type": "tap",
                "id": "net0",
                "ifname": interface.as_str(),
                "script": "no",
                "downscript": "no",
            }),
            Self::Macvtap { .. } => json!({"type": "tap", "id": "net0", "fd": "0"}),
        }
    }

    /// The card itself. It has no option ROM: that would be the host's code, unmeasured.
    pub(crate) fn card(&self) -> Value {
        let mut card = json!({"driver": "virtio-net-pci", "netdev": "net0", "romfile": ""});
        if let Self::Tap { mac, .. } | Self::Macvtap { mac, .. } = self {
            card["mac"] = json!(mac);
        }
        card
    }

    /// What a person is told.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::User => "QEMU's user network: the guest reaches the Internet and the host's \
                           network, and the host itself unless root runs QEMU as a user of its own"
                .to_owned(),
            Self::Isolated => "QEMU's user network, forwarded ports alone".to_owned(),
            Self::Tap { interface, bridge, mac, open } => {
                let open: Vec<String> = open.iter().map(ToString::to_string).collect();
                format!("{interface} on bridge {bridge}, {mac}, open {}", open.join(" "))
            }
            Self::Macvtap { interface, parent, mac } => {
                format!("{interface} on {parent}, {mac}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_and_addresses_are_checked() {
        let name: VmName = "a-very-long-name-of-a-vm-that-is-no-interface".parse().unwrap();
        assert!(Interface::of(&name).as_str().parse::<Interface>().is_ok());
        assert_eq!(Mac::of(&name).to_string().parse(), Ok(Mac::of(&name)));
        assert_ne!(Mac::of(&name), Mac::of(&"vm-1".parse().unwrap()));
        for text in ["", "-a", "..", "a b", "a/b", "abcdefghijklmnop", "é", "a;b"] {
            assert!(text.parse::<Interface>().is_err(), "{text}");
        }
        for text in ["", "02:00", "01:00:00:00:00:00", "00:00:00:00:00:00", "02:0:0:0:0:0", "gg"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
