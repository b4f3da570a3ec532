//! Which kernel modules an image takes over, and in which order an init without modprobe can
//! load them: each after those it depends on.
//!
//! Dependencies are read from the modules themselves (section `.modinfo`), so nothing has to
//! stand on a machine's disk for `depmod` to find. A cipher may be named by its alias instead
//! (`crypto-sha512`): the modules that offer it have other names in each kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use object::{Object as _, ObjectSection as _};

/// What a module says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModInfo {
    /// Its name, with underscores.
    pub name: String,
    /// Modules that it uses symbols of.
    pub depends: Vec<String>,
    /// Modules that should be there first, if they are there at all.
    pub softdeps: Vec<String>,
    /// Names by which modprobe takes it, too.
    pub aliases: Vec<String>,
    /// The kernel that it was made for, and options of that kernel.
    pub vermagic: String,
}

/// Why modules cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// Not a kernel module.
    #[error("{path} is no kernel module: {what}")]
    NotAModule {
        /// Path of the file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A module is asked for or depended on and the kernel package has none of that name.
    #[error(
        "the kernel has no module {name:?} (asked for by {by}); modules are named as modprobe \
         takes them, ciphers also by alias (\"crypto-sha512\"), and built-in ones are fine"
    )]
    Unknown {
        /// The module.
        name: String,
        /// The recipe or the module that asks.
        by: String,
    },
    /// A file could not be read.
    #[error("cannot read the module {path}")]
    Read {
        /// Path of the file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Modules that need each other.
    #[error("kernel modules depend on each other in a circle: {circle}")]
    Circle {
        /// The names.
        circle: String,
    },
}

/// The modules of one kernel: where each is, and which are built in.
#[derive(Debug, Clone, Default)]
pub struct ModuleIndex {
    files: BTreeMap<String, String>,
    builtin: BTreeSet<String>,
    builtin_aliases: BTreeSet<String>,
}

/// What the alias of every cipher begins with.
const CIPHER: &str = "crypto_";
/// The modules that offer ciphers have this in their path.
const CIPHERS: &str = "/crypto/";

/// A module that was chosen.
#[derive(Debug, Clone)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Path of its file in the kernel package.
    pub path: String,
    /// Its bytes, decompressed.
    pub bytes: Vec<u8>,
}

/// The name of the module in a file, from its path: `a/dm-verity.ko.xz` is `dm_verity`.
#[must_use]
pub fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

impl ModuleIndex {
    /// Takes the paths of all files of a kernel, its `modules.builtin` and its
    /// `modules.builtin.modinfo`.
    pub fn new<'a>(paths: impl Iterator<Item = &'a str>, builtin: &str, modinfo: &[u8]) -> Self {
        // `MODULE.FIELD=VALUE`, as far as a zero.
        let alias = |field: &[u8]| {
            let field = String::from_utf8_lossy(field);
            let (key, value) = field.split_once('=')?;
            let (_, key) = key.split_once('.')?;
            (key == "alias").then(|| underscored(value))
        };
        Self {
            files: paths.filter_map(|p| Some((module_name(p)?, p.to_owned()))).collect(),
            builtin: builtin.lines().filter_map(module_name).collect(),
            builtin_aliases: modinfo.split(|b| *b == 0).filter_map(alias).collect(),
        }
    }

    /// The modules `wanted` and all that they depend on, dependencies first. `read` gives the
    /// bytes of a file as it is packaged.
    ///
    /// # Errors
    /// When a module is missing, unreadable or malformed.
    pub fn closure(
        &self,
        wanted: &[String],
        mut read: impl FnMut(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<Vec<Module>, ModuleError> {
        let mut chosen = Vec::new();
        let mut done = BTreeSet::new();
        for name in wanted {
            for name in self.named(&underscored(name), &mut read)? {
                let (above, by) = (&mut Vec::new(), "the recipe");
                self.visit(&name, by, above, &mut done, &mut chosen, &mut read)?;
            }
        }
        Ok(chosen)
    }

    /// The modules that a name of the recipe means: all that offer a cipher, none where only the
    /// kernel itself offers it, and else the one of that name.
    fn named(
        &self,
        name: &str,
        read: &mut impl FnMut(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<Vec<String>, ModuleError> {
        if !name.starts_with(CIPHER) {
            return Ok(vec![name.to_owned()]);
        }
        let mut offering = Vec::new();
        for (module, path) in self.files.iter().filter(|(_, path)| path.contains(CIPHERS)) {
            if look(path, read)?.1.aliases.iter().any(|alias| alias == name) {
                offering.push(module.clone());
            }
        }
        if offering.is_empty() && !self.builtin_aliases.contains(name) {
            // Said as the module that nobody knows.
            offering.push(name.to_owned());
        }
        Ok(offering)
    }

    fn visit(
        &self,
        name: &str,
        by: &str,
        above: &mut Vec<String>,
        done: &mut BTreeSet<String>,
        chosen: &mut Vec<Module>,
        read: &mut impl FnMut(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<(), ModuleError> {
        if done.contains(name) || self.builtin.contains(name) {
            return Ok(());
        }
        if above.iter().any(|n| n == name) {
            return Err(ModuleError::Circle { circle: format!("{} {name}", above.join(" ")) });
        }
        let path = self
            .files
            .get(name)
            .ok_or_else(|| ModuleError::Unknown { name: name.to_owned(), by: by.to_owned() })?;
        let (bytes, info) = look(path, read)?;
        above.push(name.to_owned());
        for dependency in &info.depends {
            self.visit(dependency, name, above, done, chosen, read)?;
        }
        for soft in &info.softdeps {
            if self.files.contains_key(soft) && !above.contains(soft) {
                self.visit(soft, name, above, done, chosen, read)?;
            }
        }
        above.pop();
        done.insert(name.to_owned());
        chosen.push(Module { name: name.to_owned(), path: path.clone(), bytes });
        Ok(())
    }
}

/// The bytes of a module, and what it says about itself.
fn look(
    path: &str,
    read: &mut impl FnMut(&str) -> std::io::Result<Vec<u8>>,
) -> Result<(Vec<u8>, ModInfo), ModuleError> {
    let packed =
        read(path).map_err(|source| ModuleError::Read { path: path.to_owned(), source })?;
    let bytes = decompress(path, packed)?;
    let info = modinfo(path, &bytes)?;
    Ok((bytes, info))
}

/// The bytes of a module file, decompressed if its name ends in `.xz`.
///
/// # Errors
/// When they do not decompress.
pub fn decompress(path: &str, packed: Vec<u8>) -> Result<Vec<u8>, ModuleError> {
    if path.strip_suffix(".xz").is_none() {
        return Ok(packed);
    }
    let mut bytes = Vec::new();
    let read = liblzma::read::XzDecoder::new(packed.as_slice()).read_to_end(&mut bytes);
    read.map_err(|source| ModuleError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Reads the section `.modinfo` of the module at `path`.
///
/// # Errors
/// When `bytes` are no ELF file with such a section, or it names no module.
pub fn modinfo(path: &str, bytes: &[u8]) -> Result<ModInfo, ModuleError> {
    let broken = |what: String| ModuleError::NotAModule { path: path.to_owned(), what };
    let elf = object::File::parse(bytes).map_err(|e| broken(e.to_string()))?;
    let section =
        elf.section_by_name(".modinfo").ok_or_else(|| broken("no section .modinfo".into()))?;
    let data = section.data().map_err(|e| broken(e.to_string()))?;
    let mut info = ModInfo::default();
    for field in data.split(|b| *b == 0) {
        let field = String::from_utf8_lossy(field);
        let Some((key, value)) = field.split_once('=') else { continue };
        match key {
            "name" => info.name = underscored(value),
            "alias" => info.aliases.push(underscored(value)),
            "vermagic" => value.trim_end().clone_into(&mut info.vermagic),
            "depends" => {
                info.depends =
                    value.split(',').filter(|n| !n.is_empty()).map(underscored).collect();
            }
            "softdep" => info.softdeps.extend(pre(value)),
            _ => {}
        }
    }
    if info.name.is_empty() {
        return Err(broken("its .modinfo has no name".into()));
    }
    Ok(info)
}

/// The modules of `pre: a b post: c` that come before.
fn pre(softdep: &str) -> Vec<String> {
    let words = softdep.split_whitespace().skip_while(|w| *w != "pre:").skip(1);
    words.take_while(|w| !w.ends_with(':')).map(underscored).collect()
}

/// A name as the kernel compares it.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal ELF file whose only named section is `.modinfo`.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let (info_at, names_at) = (64_u64, 64 + info.len() as u64);
        let headers_at = (names_at + names.len() as u64).next_multiple_of(8);
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend(1_u16.to_le_bytes()); // relocatable
        elf.extend(62_u16.to_le_bytes()); // x86-64
        elf.extend(1_u32.to_le_bytes());
        elf.extend([0; 16]);
        elf.extend(headers_at.to_le_bytes());
        elf.extend(0_u32.to_le_bytes());
        for half in [64_u16, 0, 0, 64, 3, 2] {
            elf.extend(half.to_le_bytes());
        }
        elf.extend(info);
        elf.extend(names);
        elf.resize(headers_at.try_into().unwrap(), 0);
        elf.extend([0; 64]);
        for (name, kind, at, size) in
            [(1_u32, 1_u32, info_at, info.len()), (10, 3, names_at, names.len())]
        {
            elf.extend(name.to_le_bytes());
            elf.extend(kind.to_le_bytes());
            elf.extend([0; 16]);
            elf.extend(at.to_le_bytes());
            elf.extend((size as u64).to_le_bytes());
            elf.extend([0; 8]);
            elf.extend(1_u64.to_le_bytes());
            elf.extend([0; 8]);
        }
        elf
    }

    fn files() -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut add = |path: &str, info: &str| {
            let mut bytes = module(info.replace(' ', "\0").replace('_', " ").as_bytes());
            if path.strip_suffix(".xz").is_some() {
                let mut packed = Vec::new();
                liblzma::read::XzEncoder::new(bytes.as_slice(), 1)
                    .read_to_end(&mut packed)
                    .unwrap();
                bytes = packed;
            }
            files.insert(path.to_owned(), bytes);
        };
        add(
            "kernel/md/dm-verity.ko.xz",
            "name=dm-verity depends=dm-mod,dm-bufio softdep=pre:_gone_sha",
        );
        add("kernel/md/dm-bufio.ko.xz", "name=dm-bufio depends=dm-mod");
        add("kernel/md/dm-mod.ko", "license=GPL depends= name=dm-mod");
        add("kernel/sha.ko", "name=sha depends=core");
        add("kernel/a.ko", "name=a depends=b");
        add("kernel/b.ko", "name=b depends=a");
        add("kernel/lost.ko", "name=lost depends=nowhere");
        add("kernel/crypto/gcm.ko.xz", "name=gcm depends=sha alias=gcm alias=crypto-gcm");
        add("kernel/x86/crypto/hash-fast.ko", "name=hash-fast alias=crypto-sha512");
        add("kernel/crypto/hash.ko", "name=hash alias=crypto-sha384 alias=crypto-sha512");
        files
    }

    fn closure(wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let files = files();
        let builtin = b"sha.alias=crypto-sha512\0ecdsa.license=GPL\0ecdsa.alias=crypto-ecdsa-x\0";
        let index = ModuleIndex::new(files.keys().map(String::as_str), "kernel/core.ko\n", builtin);
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        index.closure(&wanted, |path| Ok(files[path].clone()))
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let modules = closure(&["core", "dm-verity", "dm_mod"]).unwrap();
        let names: Vec<_> = modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["dm_mod", "dm_bufio", "sha", "dm_verity"]);
        assert!(modules.iter().all(|m| m.bytes.starts_with(b"\x7fELF")));
        assert_eq!(modules[3].path, "kernel/md/dm-verity.ko.xz");
    }

    #[test]
    fn a_cipher_is_what_offers_it() {
        let chosen = |name: &str| -> Vec<String> {
            closure(&[name]).unwrap().into_iter().map(|module| module.name).collect()
        };
        assert_eq!(chosen("crypto-gcm"), ["sha", "gcm"]);
        assert_eq!(chosen("crypto-sha512"), ["hash", "hash_fast"], "beside a built-in one");
        assert_eq!(chosen("crypto-ecdsa-x"), [""; 0], "it is built in");
        let error = closure(&["crypto-none"]).unwrap_err().to_string();
        assert!(error.contains("crypto_none") && error.contains("the recipe"), "{error}");
    }

    #[test]
    fn missing_modules_and_circles_are_named() {
        let error = closure(&["virtio_blk"]).unwrap_err().to_string();
        assert!(error.contains("virtio_blk") && error.contains("the recipe"), "{error}");
        let error = closure(&["lost"]).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("by lost"), "{error}");
        let error = closure(&["a"]).unwrap_err().to_string();
        assert!(error.contains("a b a"), "{error}");
    }

    #[test]
    fn cut_modules_are_refused_without_panic() {
        let whole = module(b"name=x\0depends=\0");
        assert_eq!(modinfo("x", &whole).unwrap().name, "x");
        for cut in 0..whole.len() {
            // Whatever is read from a cut file, reading it does not panic.
            let _ = modinfo("x", &whole[..cut]);
        }
        assert!(modinfo("x", b"").is_err());
        assert!(modinfo("x", &module(b"license=GPL\0")).is_err());
    }
}
