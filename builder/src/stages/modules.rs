//! Whether kernel modules that a stage made fit the image's kernel: found out here, not when the
//! guest boots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::initrd::modules::modinfo;

/// The modules of a stage by file name.
pub type ModuleSet<'a> = BTreeMap<&'a str, &'a [u8]>;

/// Symbols that a kernel and its modules export, each with its checksum.
#[derive(Debug, Clone, Default)]
pub struct SymbolVersions(BTreeMap<String, u32>);

/// The length of an entry of the section `__versions`: a checksum of eight bytes and a name.
const ENTRY: usize = 64;

impl SymbolVersions {
    /// Reads a `Module.symvers`: checksum, symbol, module and kind, parted by tabs.
    ///
    /// # Errors
    /// The line that is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut symbols = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split('\t');
            let entry = || -> Option<(u32, &str)> {
                let crc = fields.next()?.strip_prefix("0x")?;
                Some((u32::from_str_radix(crc, 16).ok()?, fields.next()?))
            };
            let mut entry = entry;
            let (crc, symbol) = entry().ok_or_else(|| line.to_owned())?;
            symbols.insert(symbol.to_owned(), crc);
        }
        Ok(Self(symbols))
    }
}

/// Checks the modules of one stage: their version of the kernel is that of `reference`, a
/// module of the kernel's own package, each symbol that they use is exported by the kernel or
/// by another of them, with the checksum that they were compiled for.
///
/// # Errors
/// The file that does not fit, and why.
pub fn check(
    modules: &ModuleSet<'_>,
    reference: &str,
    symvers: &SymbolVersions,
) -> Result<(), (String, String)> {
    let mut own = BTreeSet::new();
    for (file, bytes) in modules {
        let elf = parse(file, bytes)?;
        let exports = elf.symbols().filter_map(|s| s.name().ok()?.strip_prefix("__ksymtab_"));
        own.extend(exports.map(str::to_owned));
    }
    for (file, bytes) in modules {
        let fail = |what: String| Err(((*file).to_owned(), what));
        let info = modinfo(file, bytes).map_err(|e| ((*file).to_owned(), e.to_string()))?;
        if info.vermagic != reference {
            return fail(format!(
                "its version magic is {:?}, the kernel's modules have {reference:?}",
                info.vermagic
            ));
        }
        let expected = file.strip_suffix(".ko").unwrap_or(file).replace('-', "_");
        if info.name != expected {
            return fail(format!("the module in it is called {}", info.name));
        }
        let elf = parse(file, bytes)?;
        let missing: Vec<&str> = elf
            .symbols()
            .filter(|symbol| symbol.is_undefined() && !symbol.is_weak())
            .filter_map(|symbol| symbol.name().ok())
            .filter(|name| !name.is_empty())
            .filter(|name| !own.contains(*name) && !symvers.0.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            return fail(format!("nothing exports {}", shown(&missing)));
        }
        let changed = changed(&elf, symvers).map_err(|what| ((*file).to_owned(), what))?;
        if !changed.is_empty() {
            let changed: Vec<&str> = changed.iter().map(String::as_str).collect();
            return fail(format!("it was compiled for other versions of {}", shown(&changed)));
        }
    }
    Ok(())
}

fn parse<'a>(file: &str, bytes: &'a [u8]) -> Result<object::File<'a>, (String, String)> {
    object::File::parse(bytes).map_err(|error| (file.to_owned(), error.to_string()))
}

/// Symbols of the kernel that the module has another checksum of.
fn changed(elf: &object::File<'_>, symvers: &SymbolVersions) -> Result<Vec<String>, String> {
    let Some(section) = elf.section_by_name("__versions") else {
        return Err(
            "it has no section __versions: it was made for a kernel without MODVERSIONS".to_owned()
        );
    };
    let data = section.data().map_err(|error| error.to_string())?;
    let mut changed = Vec::new();
    for entry in data.chunks(ENTRY) {
        let Some((crc, name)) = entry.split_first_chunk::<8>() else {
            return Err("its section __versions is cut".to_owned());
        };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(&name[..end]);
        let known = symvers.0.get(name.as_ref());
        if known.is_some_and(|known| u64::from(*known) != u64::from_le_bytes(*crc)) {
            changed.push(name.into_owned());
        }
    }
    Ok(changed)
}

fn shown(names: &[&str]) -> String {
    let mut text = names.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    if names.len() > 8 {
        let _ = write!(text, " and {} more", names.len() - 8);
    }
    text
}
