//! Holds every program and library of an image to the libraries that it names.
//!
//! The image has no `ld.so.cache`: each library must be where the loader looks without one. And
//! a package that was excluded from the closure must not be missed by what is left.

use std::collections::BTreeSet;
use std::fmt;

use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};

use super::StepError;
use crate::merge::{Content, Kind, Tree};

/// Where the loader of Debian's amd64 looks without a cache, relative to the root.
const DEFAULT: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];

/// What the dynamic section of a file names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    libraries: Vec<String>,
    places: Vec<String>,
    /// Whether it is no program: it does not say which loader starts it.
    library: bool,
}

/// A library that a file names and that is not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingLibrary {
    /// The file, absolute.
    pub file: String,
    /// The package that has the file, or "the recipe".
    pub package: String,
    /// The library, as `libldap.so.2`.
    pub library: String,
}

impl fmt::Display for MissingLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} needs {}", self.file, self.package, self.library)
    }
}

/// Checks all files of `tree`.
///
/// # Errors
/// When a library is named and not found, or a file cannot be read.
pub fn check_libraries(tree: &Tree) -> Result<(), StepError> {
    let missing: Vec<_> = missing_libraries(tree)?.iter().map(ToString::to_string).collect();
    if missing.is_empty() { Ok(()) } else { Err(StepError::Libraries { missing }) }
}

/// Each library that a file of `tree` names and that is not found.
///
/// # Errors
/// When a file cannot be read.
pub fn missing_libraries(tree: &Tree) -> Result<Vec<MissingLibrary>, StepError> {
    let mut missing = Vec::new();
    let mut found = BTreeSet::new();
    for (path, node) in tree.nodes() {
        let Kind::File(content) = &node.kind else { continue };
        if !is_elf(tree, content)? || path.starts_with("usr/lib/modules/") {
            continue;
        }
        let bytes = tree.read_content(content)?;
        let Some(needs) = needs(&bytes) else { continue };
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for library in &needs.libraries {
            let places = needs.places.iter().filter_map(|place| inside(place, dir));
            // A library in a private directory finds its neighbours through who loaded it.
            let own = needs.library.then(|| dir.to_owned());
            let mut candidates = places.chain(own).chain(DEFAULT.map(str::to_owned));
            let default = found.contains(library);
            if !default && !candidates.any(|place| resolves(tree, &format!("{place}/{library}"))) {
                missing.push(MissingLibrary {
                    file: format!("/{path}"),
                    package: tree.origin(node).to_owned(),
                    library: library.clone(),
                });
            } else if needs.places.is_empty() && !needs.library {
                found.insert(library.clone());
            }
        }
    }
    Ok(missing)
}

/// Reads no more than it must to know.
fn is_elf(tree: &Tree, content: &Content) -> Result<bool, StepError> {
    let head = match content {
        Content::Bytes(bytes) => Content::Bytes(bytes.get(..4).unwrap_or_default().into()),
        Content::Extent { source, offset, size } => {
            Content::Extent { source: *source, offset: *offset, size: (*size).min(4) }
        }
    };
    Ok(tree.read_content(&head)? == elf::ELFMAG)
}

/// The directory that an entry of `RUNPATH` names for a file in `dir`, relative to the root.
fn inside(place: &str, dir: &str) -> Option<String> {
    let place = place.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &format!("/{dir}"));
    let mut parts: Vec<&str> = Vec::new();
    for part in place.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(crate::merge::canonical(&parts.join("/"), false))
}

/// Does `path` lead to a file, through links that stay in their own directory or are absolute?
fn resolves(tree: &Tree, path: &str) -> bool {
    let mut path = path.to_owned();
    for _ in 0..8 {
        match tree.get(&path).map(|node| &node.kind) {
            Some(Kind::File(_)) => return true,
            Some(Kind::Symlink(target)) => {
                let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                let absolute = if target.starts_with('/') {
                    target.clone()
                } else {
                    format!("/{dir}/{target}")
                };
                match inside(&absolute, "") {
                    Some(next) => path = next,
                    None => return false,
                }
            }
            _ => return false,
        }
    }
    false
}

/// What an ELF file of this machine names; `None` if it is none, static, or malformed.
fn needs(bytes: &[u8]) -> Option<Needs> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let dynamic = segments.iter().find_map(|s| s.dynamic(endian, bytes).ok().flatten())?;
    let value = |tag: elf::DynamicTag| {
        dynamic.iter().find(|d| d.d_tag(endian) == tag).map(|d| d.d_val(endian))
    };
    let (address, size) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
    let strings =
        segments.iter().find_map(|s| s.data_range(endian, bytes, address, size).ok().flatten())?;
    let text = |offset: u64| {
        let rest = strings.get(usize::try_from(offset).ok()?..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let library = !segments.iter().any(|s| s.p_type(endian) == elf::PT_INTERP);
    let mut needs = Needs { library, ..Needs::default() };
    for entry in dynamic {
        match entry.d_tag(endian) {
            elf::DT_NEEDED => needs.libraries.push(text(entry.d_val(endian))?),
            elf::DT_RUNPATH | elf::DT_RPATH => {
                let places = text(entry.d_val(endian))?;
                needs.places.extend(places.split(':').map(str::to_owned));
            }
            _ => {}
        }
    }
    Some(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This machine's shell, which needs at least the C library.
    fn shell() -> Vec<u8> {
        std::fs::read(std::fs::canonicalize("/bin/sh").unwrap()).unwrap()
    }

    #[test]
    fn a_program_without_its_library_is_named() {
        let needed = needs(&shell()).unwrap().libraries;
        assert!(needed.contains(&"libc.so.6".to_owned()), "{needed:?}");
        let mut tree = Tree::default();
        tree.put_file("usr/bin/sh", 0o755, &shell()).unwrap();
        tree.put_file("usr/bin/script", 0o755, b"#!/bin/sh\n").unwrap();
        let found = check_libraries(&tree).unwrap_err().to_string();
        assert!(found.contains("/usr/bin/sh of the recipe needs libc.so.6"), "{found}");
        for library in &needed {
            tree.put_link(&format!("usr/lib/x86_64-linux-gnu/{library}"), "there").unwrap();
        }
        assert_eq!(missing_libraries(&tree).unwrap().len(), needed.len());
        tree.put_file("usr/lib/x86_64-linux-gnu/there", 0o644, b"").unwrap();
        check_libraries(&tree).unwrap();
    }

    #[test]
    fn places_are_taken_from_where_the_file_is() {
        assert_eq!(inside("$ORIGIN/../x", "usr/lib/y").unwrap(), "usr/lib/x");
        assert_eq!(inside("/lib/systemd", "").unwrap(), "usr/lib/systemd");
        assert_eq!(inside("relative", "usr"), None);
    }

    #[test]
    fn cut_files_are_no_programs() {
        let whole = shell();
        for cut in [0, 3, 64, 200, 1000, whole.len() / 2] {
            // Whatever is read from a cut file, reading it does not panic.
            let _ = needs(&whole[..cut]);
        }
        assert_eq!(needs(b"#!/bin/sh"), None);
    }
}
