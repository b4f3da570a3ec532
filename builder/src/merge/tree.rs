//! The tree itself: a sorted map from paths to what stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use casemate_measurements::hash::Sha256Hash;
use sha2::{Digest as _, Sha256};

use super::MergeError;
use super::scan::Scanned;

/// Where bytes of packages are.
#[derive(Debug, Clone)]
pub struct Source {
    /// The package's name.
    pub name: String,
    /// SHA-256 of the package.
    pub identity: Sha256Hash,
    /// The open archive.
    pub file: Arc<File>,
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A piece of a source.
    Extent {
        /// Number of the source.
        source: usize,
        /// Where it starts.
        offset: u64,
        /// Its length.
        size: u64,
    },
    /// Bytes that a step made.
    Bytes(Arc<[u8]>),
}

impl Content {
    /// Its length.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Extent { size, .. } => *size,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }
}

/// Whom a file belongs to, by number and by the names in its package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// User name.
    pub user: Arc<str>,
    /// Group name.
    pub group: Arc<str>,
}

impl Owner {
    /// The superuser.
    #[must_use]
    pub fn root() -> Arc<Self> {
        Arc::new(Self { uid: 0, gid: 0, user: "root".into(), group: "root".into() })
    }
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File(Content),
    /// A symbolic link.
    Symlink(String),
}

/// A path's entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// Number of the package that it came from.
    pub source: Option<usize>,
}

/// A file tree. Paths have no slash at either end.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    sources: Vec<Source>,
    nodes: BTreeMap<String, Node>,
    hard_links: BTreeMap<String, String>,
}

/// The path below `/usr` where a merged-usr system has it. A symbolic link at the alias itself
/// stays: it is what merges.
#[must_use]
pub fn canonical(path: &str, symlink: bool) -> String {
    const ALIASES: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
    let first = path.split('/').next().unwrap_or_default();
    if ALIASES.contains(&first) && !(symlink && first == path) {
        return format!("usr/{path}");
    }
    path.to_owned()
}

impl Tree {
    /// Adds a source and returns its number.
    pub fn add_source(&mut self, source: Source) -> usize {
        self.sources.push(source);
        self.sources.len() - 1
    }

    /// The entries, sorted by path.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The entries at and below `dir`, sorted by path.
    pub fn below<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a Node)> {
        let inside = move |path: &str| {
            path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let from = self.nodes.range(dir.to_owned()..).map(|(path, node)| (path.as_str(), node));
        // `usr-x` sorts between `usr` and `usr/`.
        from.take_while(move |(path, _)| path.starts_with(dir)).filter(move |(p, _)| inside(p))
    }

    /// What stands at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// What stands at `path`, to change it.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(path)
    }

    /// Takes `path` out.
    pub fn remove(&mut self, path: &str) -> Option<Node> {
        self.nodes.remove(path)
    }

    /// Keeps the entries that `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Node) -> bool) {
        self.nodes.retain(|path, node| keep(path, node));
    }

    /// The name of the package that `node` came from.
    #[must_use]
    pub fn origin(&self, node: &Node) -> &str {
        let source = node.source.and_then(|at| self.sources.get(at));
        source.map_or("the recipe", |source| source.name.as_str())
    }

    /// The sources, by number.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Puts `node` at `path`, over what was there, and makes missing directories above it.
    ///
    /// # Errors
    /// When it would lie below a file or link, or replace a directory that is not empty.
    pub fn put(&mut self, path: &str, node: Node) -> Result<(), MergeError> {
        self.make_parents(path)?;
        if node.kind != Kind::Directory
            && let Some((below, other)) = self.below(path).find(|(p, _)| *p != path)
        {
            return Err(MergeError::Parent {
                path: below.to_owned(),
                owner: self.origin(other).to_owned(),
                parent: path.to_owned(),
            });
        }
        self.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// Puts a file of root's at `path`.
    ///
    /// # Errors
    /// As [`Tree::put`].
    pub fn put_file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), MergeError> {
        let kind = Kind::File(Content::Bytes(Arc::from(bytes)));
        self.put(path, Node { kind, mode, owner: Owner::root(), source: None })
    }

    /// Puts a symbolic link at `path`.
    ///
    /// # Errors
    /// As [`Tree::put`].
    pub fn put_link(&mut self, path: &str, target: &str) -> Result<(), MergeError> {
        let kind = Kind::Symlink(target.to_owned());
        self.put(path, Node { kind, mode: 0o777, owner: Owner::root(), source: None })
    }

    /// Puts a directory of root's at `path`, if there is none.
    ///
    /// # Errors
    /// As [`Tree::put`].
    pub fn put_directory(&mut self, path: &str, mode: u32) -> Result<(), MergeError> {
        if self.nodes.get(path).is_some_and(|n| n.kind == Kind::Directory) {
            return Ok(());
        }
        let kind = Kind::Directory;
        self.put(path, Node { kind, mode, owner: Owner::root(), source: None })
    }

    fn make_parents(&mut self, path: &str) -> Result<(), MergeError> {
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            match self.nodes.get(parent) {
                Some(node) if node.kind == Kind::Directory => {}
                None => {
                    let (kind, owner) = (Kind::Directory, Owner::root());
                    let node = Node { kind, mode: 0o755, owner, source: None };
                    self.nodes.insert(parent.to_owned(), node);
                }
                Some(_) => {
                    return Err(MergeError::Parent {
                        path: path.to_owned(),
                        owner: "the recipe".to_owned(),
                        parent: parent.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds an entry of the package numbered `source`.
    pub(super) fn insert_packaged(
        &mut self,
        source: usize,
        entry: Scanned,
    ) -> Result<(), MergeError> {
        let Scanned { path, mut node, hard_link } = entry;
        node.source = Some(source);
        if let Kind::File(Content::Extent { source: at, .. }) = &mut node.kind {
            *at = source;
        }
        if let Some(target) = hard_link {
            self.hard_links.insert(path.clone(), target);
        }
        let Some(other) = self.nodes.get(&path) else {
            self.nodes.insert(path, node);
            return Ok(());
        };
        let same = |a: &Node, b: &Node| (a.mode, &a.owner) == (b.mode, &b.owner);
        if node.kind == Kind::Directory && other.kind == Kind::Directory && same(&node, other) {
            // The directory belongs to the first package by number, whatever the order.
            if node.source < other.source {
                self.nodes.insert(path, node);
            }
            return Ok(());
        }
        let mut names = [self.origin(other).to_owned(), self.origin(&node).to_owned()];
        names.sort();
        let [first, second] = names;
        Err(MergeError::Conflict { path, first, second })
    }

    /// Resolves hard links and checks that every path lies in directories.
    pub(super) fn finish(&mut self) -> Result<(), MergeError> {
        for (path, target) in std::mem::take(&mut self.hard_links) {
            let needed = || format!("/{path} is a hard link to it");
            let found = self
                .nodes
                .get(&target)
                .ok_or_else(|| MergeError::Missing { path: target.clone(), needed: needed() })?;
            let kind = found.kind.clone();
            if let Some(node) = self.nodes.get_mut(&path) {
                node.kind = kind;
            }
        }
        let paths: Vec<String> = self.nodes.keys().cloned().collect();
        for path in paths {
            let owner = self.nodes.get(&path).map(|n| self.origin(n).to_owned());
            self.make_parents(&path).map_err(|error| match error {
                MergeError::Parent { path, parent, .. } => {
                    MergeError::Parent { path, parent, owner: owner.unwrap_or_default() }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When there is no file at `path`, or its bytes cannot be read; `needed` says for what.
    pub fn read(&self, path: &str, needed: &str) -> Result<Vec<u8>, MergeError> {
        match self.nodes.get(path).map(|n| &n.kind) {
            Some(Kind::File(content)) => self.read_content(content),
            _ => Err(MergeError::Missing { path: path.to_owned(), needed: needed.to_owned() }),
        }
    }

    /// Reads the bytes of a file of this tree.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_content(&self, content: &Content) -> Result<Vec<u8>, MergeError> {
        match content {
            Content::Bytes(bytes) => Ok(bytes.to_vec()),
            Content::Extent { source, offset, size } => {
                let source = &self.sources[*source];
                let read = |size: u64| -> std::io::Result<Vec<u8>> {
                    let size = usize::try_from(size).map_err(std::io::Error::other)?;
                    let mut bytes = vec![0; size];
                    source.file.read_exact_at(&mut bytes, *offset)?;
                    Ok(bytes)
                };
                read(*size).map_err(|error| MergeError::Read {
                    package: source.name.clone(),
                    path: "its archive".into(),
                    source: error,
                })
            }
        }
    }

    /// A digest of all that the tree is: paths, modes, owners, and for content the hash of its
    /// bytes or of the package that has it and where in there.
    #[must_use]
    pub fn digest(&self) -> Sha256Hash {
        let mut hasher = Sha256::new();
        hasher.update(b"casemate-tree-v1\0");
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (path, node) in &self.nodes {
            field(path.as_bytes());
            let (kind, content): (&[u8], Vec<u8>) = match &node.kind {
                Kind::Directory => (b"directory", Vec::new()),
                Kind::Symlink(target) => (b"link", target.clone().into_bytes()),
                Kind::File(Content::Bytes(bytes)) => {
                    (b"bytes", Sha256Hash::of(bytes).as_bytes().to_vec())
                }
                Kind::File(Content::Extent { source, offset, size }) => {
                    let mut place = self.sources[*source].identity.as_bytes().to_vec();
                    place.extend(offset.to_le_bytes());
                    place.extend(size.to_le_bytes());
                    (b"extent", place)
                }
            };
            field(kind);
            field(&content);
            for number in [node.mode, node.owner.uid, node.owner.gid] {
                field(&number.to_le_bytes());
            }
        }
        Sha256Hash::from_bytes(hasher.finalize().into())
    }

    /// The packages that at least one file or link of the tree came from.
    #[must_use]
    pub fn contributing(&self) -> BTreeSet<usize> {
        let files = self.nodes.values().filter(|n| n.kind != Kind::Directory);
        files.filter_map(|n| n.source).collect()
    }
}
