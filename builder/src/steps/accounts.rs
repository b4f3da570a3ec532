//! Users and groups: Debian's fixed ones and the recipe's pinned ones, and no others.
//!
//! The files in `/etc` are made here rather than by programs of the packages, whose numbers
//! depend on which packages are installed. Whatever a package expects to be made on first start
//! (`sysusers.d`) or names as an owner must already be pinned.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::StepError;
use crate::merge::{Kind, Node, Owner, Tree};
use crate::recipe::{Group, User};

const MASTER_PASSWD: &str = "usr/share/base-passwd/passwd.master";
const MASTER_GROUP: &str = "usr/share/base-passwd/group.master";

#[derive(Debug, Clone)]
struct Login {
    uid: u32,
    gid: u32,
    rest: String,
}

/// All users and groups of an image.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: BTreeMap<String, Login>,
    groups: BTreeMap<String, (u32, Vec<String>)>,
    subids: BTreeMap<String, (u32, u32)>,
}

impl Accounts {
    /// Reads Debian's fixed accounts from the package base-passwd in `tree` and adds the
    /// recipe's.
    ///
    /// # Errors
    /// When a line is malformed, two accounts share a name or number, or a group is unknown.
    pub fn new(tree: &Tree, users: &[User], groups: &[Group]) -> Result<Self, StepError> {
        let mut accounts = Self::default();
        let needed = "the fixed users and groups are taken from it (package base-passwd)";
        let passwd = tree.read(MASTER_PASSWD, needed)?;
        for line in String::from_utf8_lossy(&passwd).lines() {
            let malformed = || StepError::AccountLine {
                file: MASTER_PASSWD.to_owned(),
                line: line.to_owned(),
                expected: "name:password:uid:gid:comment:home:shell",
            };
            let fields: Vec<&str> = line.splitn(5, ':').collect();
            let [name, _, uid, gid, rest] = fields[..] else { return Err(malformed()) };
            let number = |text: &str| text.parse().map_err(|_| malformed());
            accounts.add_user(name, number(uid)?, number(gid)?, rest.to_owned())?;
        }
        let group = tree.read(MASTER_GROUP, needed)?;
        for line in String::from_utf8_lossy(&group).lines() {
            let malformed = || StepError::AccountLine {
                file: MASTER_GROUP.to_owned(),
                line: line.to_owned(),
                expected: "name:password:gid:members",
            };
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, _] = fields[..] else { return Err(malformed()) };
            accounts.add_group(name, gid.parse().map_err(|_| malformed())?)?;
        }
        for group in groups {
            accounts.add_group(group.name.as_str(), group.gid)?;
        }
        for user in users {
            let name = user.name.as_str();
            let rest = format!("{}:{}:{}", user.comment, user.home, user.shell);
            accounts.add_group(name, user.gid)?;
            accounts.add_user(name, user.uid, user.gid, rest)?;
            if let Some(ids) = user.subids {
                accounts.subids.insert(name.to_owned(), (ids.first(), ids.count()));
            }
        }
        for user in users {
            for group in &user.groups {
                let name = user.name.as_str().to_owned();
                let Some((_, members)) = accounts.groups.get_mut(group.as_str()) else {
                    let name = group.as_str().to_owned();
                    return Err(StepError::Unpinned {
                        file: "image.toml".to_owned(),
                        kind: "group",
                        name,
                    });
                };
                members.push(name);
                members.sort();
            }
        }
        Ok(accounts)
    }

    fn add_user(&mut self, name: &str, uid: u32, gid: u32, rest: String) -> Result<(), StepError> {
        let taken = self.users.iter().find(|(other, u)| u.uid == uid || other.as_str() == name);
        if let Some((other, _)) = taken {
            let (kind, name, other) = ("user", name.to_owned(), other.clone());
            return Err(StepError::AccountTwice { kind, name, id: uid, other });
        }
        self.users.insert(name.to_owned(), Login { uid, gid, rest });
        Ok(())
    }

    fn add_group(&mut self, name: &str, gid: u32) -> Result<(), StepError> {
        let taken = self.groups.iter().find(|(other, g)| g.0 == gid || other.as_str() == name);
        if let Some((other, _)) = taken {
            let (kind, name, other) = ("group", name.to_owned(), other.clone());
            return Err(StepError::AccountTwice { kind, name, id: gid, other });
        }
        self.groups.insert(name.to_owned(), (gid, Vec::new()));
        Ok(())
    }

    /// The number of a user.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.get(name).map(|login| login.uid)
    }

    /// The number of a group.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.get(name).map(|group| group.0)
    }

    /// Holds the `sysusers.d` files of `tree` to the pinned accounts.
    ///
    /// # Errors
    /// When one asks for an account that is not pinned, or pinned with another number.
    pub fn check_sysusers(&self, tree: &Tree) -> Result<(), StepError> {
        for dir in ["etc/sysusers.d", "usr/lib/sysusers.d"] {
            for (path, node) in tree.below(dir) {
                let Kind::File(content) = &node.kind else { continue };
                let text = tree.read_content(content)?;
                for line in String::from_utf8_lossy(&text).lines() {
                    self.check_line(path, line)?;
                }
            }
        }
        Ok(())
    }

    fn check_line(&self, file: &str, line: &str) -> Result<(), StepError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kind, name, rest @ ..] = words.as_slice() else { return Ok(()) };
        if kind.starts_with('#') {
            return Ok(());
        }
        let id = rest.first().copied().unwrap_or("-");
        let (uid, gid) = id.split_once(':').unwrap_or((id, id));
        match kind.trim_end_matches(['!', '+']) {
            "u" => Self::check_id(file, "user", name, uid, self.uid(name)),
            "g" => Self::check_id(file, "group", name, gid, self.gid(name)),
            "m" => {
                Self::check_id(file, "user", name, "-", self.uid(name))?;
                Self::check_id(file, "group", id, "-", self.gid(id))
            }
            _ => Ok(()),
        }
    }

    fn check_id(
        file: &str,
        kind: &'static str,
        name: &str,
        wanted: &str,
        pinned: Option<u32>,
    ) -> Result<(), StepError> {
        let (file, name) = (file.to_owned(), name.to_owned());
        let Some(pinned) = pinned else { return Err(StepError::Unpinned { file, kind, name }) };
        match wanted.parse::<u32>() {
            Ok(found) if found != pinned => {
                Err(StepError::OtherNumber { file, kind, name, found, pinned })
            }
            _ => Ok(()),
        }
    }

    /// Writes passwd, group, shadow, gshadow, subuid and subgid. No account has a password;
    /// `epoch` is the day each was last changed.
    ///
    /// # Errors
    /// When `/etc` is no directory.
    pub fn write(&self, tree: &mut Tree, epoch: u32) -> Result<(), StepError> {
        let day = epoch / 86_400;
        let (mut passwd, mut shadow) = (String::new(), String::new());
        let mut users: Vec<_> = self.users.iter().collect();
        users.sort_by_key(|(_, login)| login.uid);
        for (name, Login { uid, gid, rest }) in users {
            // Writing to a String cannot fail.
            let _ = writeln!(passwd, "{name}:x:{uid}:{gid}:{rest}");
            let _ = writeln!(shadow, "{name}:*:{day}:0:99999:7:::");
        }
        let (mut group, mut gshadow) = (String::new(), String::new());
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, group)| group.0);
        for (name, (gid, members)) in groups {
            let members = members.join(",");
            let _ = writeln!(group, "{name}:x:{gid}:{members}");
            let _ = writeln!(gshadow, "{name}:*::{members}");
        }
        let mut subids = String::new();
        for (name, (first, count)) in &self.subids {
            let _ = writeln!(subids, "{name}:{first}:{count}");
        }
        for (path, mode, text) in [
            ("etc/passwd", 0o644, &passwd),
            ("etc/group", 0o644, &group),
            ("etc/shadow", 0o600, &shadow),
            ("etc/gshadow", 0o600, &gshadow),
            ("etc/subuid", 0o644, &subids),
            ("etc/subgid", 0o644, &subids),
        ] {
            tree.put_file(path, mode, text.as_bytes())?;
        }
        Ok(())
    }
}

/// Holds the owners of all files of `tree` to the pinned accounts.
///
/// # Errors
/// When a file belongs to an account that is not pinned, or is pinned with another number.
pub fn check_owners(tree: &Tree, accounts: &Accounts) -> Result<(), StepError> {
    for (path, node) in tree.nodes() {
        let owner = &node.owner;
        let (uid, gid) = (owner.uid.to_string(), owner.gid.to_string());
        Accounts::check_id(path, "user", &owner.user, &uid, accounts.uid(&owner.user))?;
        Accounts::check_id(path, "group", &owner.group, &gid, accounts.gid(&owner.group))?;
    }
    Ok(())
}

/// Makes the homes of the recipe's users that lie below `/home`: what a writable file system is
/// mounted on. The others, such as a service's below `/run`, are made while the guest runs.
///
/// # Errors
/// When something else than a directory is there.
pub fn make_homes(tree: &mut Tree, users: &[User]) -> Result<(), StepError> {
    for user in users {
        let path = user.home.as_str().trim_start_matches('/').to_owned();
        if !path.starts_with("home/") || tree.get(&path).is_some() {
            continue;
        }
        let name: std::sync::Arc<str> = user.name.as_str().into();
        let owner = Owner { uid: user.uid, gid: user.gid, user: name.clone(), group: name };
        let node = Node { kind: Kind::Directory, mode: 0o700, owner: owner.into(), source: None };
        tree.put(&path, node)?;
    }
    Ok(())
}
