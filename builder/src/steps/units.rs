//! Enables systemd units: the links that `systemctl enable` would make, from the units' own
//! `[Install]` sections, and no others.

use std::collections::BTreeSet;

use super::StepError;
use crate::merge::{Kind, Tree};
use crate::recipe::{UnitName, Units};

const ETC: &str = "etc/systemd/system";
const LIB: &str = "usr/lib/systemd/system";

/// What `[Install]` of a unit says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    wanted_by: Vec<String>,
    required_by: Vec<String>,
    upheld_by: Vec<String>,
    alias: Vec<String>,
    also: Vec<String>,
    default_instance: Option<String>,
}

/// Enables, masks and sets the default as `units` says; whatever else packages would enable on a
/// first start is disabled by a preset.
///
/// # Errors
/// When a unit to enable is not there or has no `[Install]` section.
pub fn enable_units(tree: &mut Tree, units: &Units) -> Result<(), StepError> {
    let masked: BTreeSet<&str> = units.mask.iter().map(UnitName::as_str).collect();
    let mut done = BTreeSet::new();
    for unit in &units.enable {
        enable(tree, unit.as_str(), &masked, &mut done)?;
    }
    for unit in &masked {
        tree.put_link(&format!("{ETC}/{unit}"), "/dev/null")?;
    }
    let default = units.default.as_str();
    let path = unit_file(tree, default).ok_or_else(|| missing(default))?;
    tree.put_link(&format!("{ETC}/default.target"), &format!("/{path}"))?;
    for scope in ["system", "user"] {
        let path = format!("etc/systemd/{scope}-preset/00-casemate.preset");
        tree.put_file(&path, 0o644, b"disable *\n")?;
    }
    Ok(())
}

fn missing(unit: &str) -> StepError {
    StepError::Unit { unit: unit.to_owned(), why: "no package or overlay has it".to_owned() }
}

/// The path of the file of `unit`, which for an instance is its template's.
fn unit_file(tree: &Tree, unit: &str) -> Option<String> {
    let template = template_of(unit).map(|(template, _)| template);
    [Some(unit.to_owned()), template].into_iter().flatten().find_map(|name| {
        [ETC, LIB]
            .iter()
            .map(|dir| format!("{dir}/{name}"))
            .find(|path| matches!(tree.get(path).map(|n| &n.kind), Some(Kind::File(_))))
    })
}

/// Template and instance of `name@instance.type`.
fn template_of(unit: &str) -> Option<(String, String)> {
    let (stem, kind) = unit.rsplit_once('.')?;
    let (name, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| (format!("{name}@.{kind}"), instance.to_owned()))
}

fn enable(
    tree: &mut Tree,
    unit: &str,
    masked: &BTreeSet<&str>,
    done: &mut BTreeSet<String>,
) -> Result<(), StepError> {
    if masked.contains(unit) || !done.insert(unit.to_owned()) {
        return Ok(());
    }
    let path = unit_file(tree, unit).ok_or_else(|| missing(unit))?;
    let text = tree.read(&path, "it is to be enabled")?;
    let refuse = |why: &str| StepError::Unit { unit: unit.to_owned(), why: why.to_owned() };
    let install = parse(&String::from_utf8_lossy(&text))
        .ok_or_else(|| refuse("its file has no [Install] section, so nothing could start it"))?;
    // A template is enabled as its default instance.
    let name = match (unit.contains("@."), &install.default_instance) {
        (true, Some(instance)) => unit.replacen("@.", &format!("@{instance}."), 1),
        (true, None) => return Err(refuse("it is a template without a DefaultInstance")),
        (false, _) => unit.to_owned(),
    };
    let target = format!("/{path}");
    let lists = [
        (&install.wanted_by, "wants"),
        (&install.required_by, "requires"),
        (&install.upheld_by, "upholds"),
    ];
    for (others, kind) in lists {
        for other in others {
            let other = specified(other, &name).ok_or_else(|| refuse("an unknown specifier"))?;
            tree.put_link(&format!("{ETC}/{other}.{kind}/{name}"), &target)?;
        }
    }
    for alias in &install.alias {
        let alias = specified(alias, &name).ok_or_else(|| refuse("an unknown specifier"))?;
        if alias != name {
            tree.put_link(&format!("{ETC}/{alias}"), &target)?;
        }
    }
    for also in &install.also {
        let also = specified(also, &name).ok_or_else(|| refuse("an unknown specifier"))?;
        // What a package would enable along, but the image has not, is not missed.
        if unit_file(tree, &also).is_some_and(|path| installs(tree, &path)) {
            enable(tree, &also, masked, done)?;
        }
    }
    Ok(())
}

fn installs(tree: &Tree, path: &str) -> bool {
    tree.read(path, "a unit").is_ok_and(|text| parse(&String::from_utf8_lossy(&text)).is_some())
}

/// Replaces the specifiers that `[Install]` sections use; `None` for another one.
fn specified(text: &str, unit: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let instance = template_of(unit).map(|(_, instance)| instance).unwrap_or_default();
    let replaced = text.replace("%i", &instance).replace("%n", unit);
    (!replaced.contains('%')).then_some(replaced)
}

/// Reads `[Install]`; `None` when there is none.
fn parse(text: &str) -> Option<Install> {
    let joined = text.replace("\\\n", " ");
    let mut install: Option<Install> = None;
    let mut inside = false;
    for line in joined.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[Install]";
            if inside {
                install.get_or_insert_default();
            }
            continue;
        }
        let (Some((key, value)), Some(install), true) =
            (line.split_once('='), install.as_mut(), inside && !line.starts_with(['#', ';']))
        else {
            continue;
        };
        let words = value.split_whitespace().map(str::to_owned);
        let list = match key.trim() {
            "WantedBy" => &mut install.wanted_by,
            "RequiredBy" => &mut install.required_by,
            "UpheldBy" => &mut install.upheld_by,
            "Alias" => &mut install.alias,
            "Also" => &mut install.also,
            "DefaultInstance" => {
                install.default_instance = Some(value.trim().to_owned());
                continue;
            }
            _ => continue,
        };
        // An empty value forgets the ones before it.
        if value.trim().is_empty() {
            list.clear();
        }
        list.extend(words);
    }
    install
}
