//! What must hold across the fields of a recipe.

use std::collections::{BTreeMap, BTreeSet};

use super::{Exclude, Image, PackageSpec, SCHEMA, Step};

/// A contradiction, and the field that it is told at.
#[derive(Debug)]
pub(super) struct Fault {
    /// The way to the field.
    pub(super) steps: Vec<Step>,
    /// What is wrong with it.
    pub(super) message: String,
}

macro_rules! steps {
    ($($step:expr),* $(,)?) => { vec![$(Step::from($step)),*] };
}

fn fault(steps: Vec<Step>, message: impl Into<String>) -> Fault {
    Fault { steps, message: message.into() }
}

/// Checks `image` as a whole.
pub(super) fn check(image: &Image) -> Result<(), Fault> {
    if image.schema != SCHEMA {
        let message = format!("schema {} is unknown: this casemate reads {SCHEMA}", image.schema);
        return Err(fault(steps!["schema"], message));
    }
    let suites = check_archives(image)?;
    check_packages(image, &suites)?;
    check_accounts(image)?;
    check_places(image)?;
    check_measure(image)
}

fn check_archives(image: &Image) -> Result<BTreeSet<&str>, Fault> {
    let mut seen = BTreeSet::new();
    if image.archive.is_empty() {
        return Err(fault(steps!["archive"], "no archive to take packages from"));
    }
    for (name, archive) in &image.archive {
        let at = |field: &str| steps!["archive", name.as_str(), field];
        if archive.keys.is_empty() {
            return Err(fault(at("keys"), "no key: nothing in this archive could be believed"));
        }
        if archive.components.is_empty() {
            return Err(fault(at("components"), "no component to take packages from"));
        }
        if archive.suites.is_empty() && archive.on_request.is_empty() {
            return Err(fault(at("suites"), "no suite to take packages from"));
        }
        for (field, list) in [("suites", &archive.suites), ("on_request", &archive.on_request)] {
            for (index, suite) in list.iter().enumerate() {
                if !seen.insert(suite.as_str()) {
                    let steps = steps!["archive", name.as_str(), field, index];
                    return Err(fault(steps, format!("suite {suite} stands here twice")));
                }
            }
        }
        for (index, suite) in archive.expired_ok.iter().enumerate() {
            if !archive.suites.contains(suite) && !archive.on_request.contains(suite) {
                let steps = steps!["archive", name.as_str(), "expired_ok", index];
                return Err(fault(steps, format!("{suite} is no suite of this archive")));
            }
        }
    }
    Ok(seen)
}

fn check_packages(image: &Image, suites: &BTreeSet<&str>) -> Result<(), Fault> {
    check_closure("guest", &image.guest.packages, &image.guest.exclude, suites)?;
    check_closure("tools", &image.tools.packages, &image.tools.exclude, suites)?;
    check_spec(&image.firmware.package, suites, || steps!["firmware", "package"])?;
    check_spec(&image.kernel.package, suites, || steps!["kernel", "package"])
}

fn check_spec(
    spec: &PackageSpec,
    suites: &BTreeSet<&str>,
    steps: impl FnOnce() -> Vec<Step>,
) -> Result<(), Fault> {
    match spec.suite() {
        Some(suite) if !suites.contains(suite.as_str()) => {
            Err(fault(steps(), format!("no archive of this recipe has the suite {suite}")))
        }
        _ => Ok(()),
    }
}

fn check_closure(
    table: &str,
    packages: &[PackageSpec],
    exclude: &[Exclude],
    suites: &BTreeSet<&str>,
) -> Result<(), Fault> {
    let mut names = BTreeSet::new();
    for (index, spec) in packages.iter().enumerate() {
        check_spec(spec, suites, || steps![table, "packages", index])?;
        if !names.insert(spec.name()) {
            let message = format!("{} is asked for twice", spec.name());
            return Err(fault(steps![table, "packages", index], message));
        }
    }
    let mut excluded = BTreeSet::new();
    for (index, entry) in exclude.iter().enumerate() {
        let at = |field: &str| steps![table, "exclude", index, field];
        if names.contains(&entry.package) {
            let message = format!("{} is both asked for and excluded", entry.package);
            return Err(fault(at("package"), message));
        }
        if !excluded.insert(&entry.package) {
            return Err(fault(at("package"), format!("{} is excluded twice", entry.package)));
        }
        if entry.reason.trim().is_empty() {
            return Err(fault(at("reason"), "an exclusion needs a reason"));
        }
    }
    Ok(())
}

fn check_accounts(image: &Image) -> Result<(), Fault> {
    let mut names = BTreeSet::new();
    let mut uids = BTreeMap::new();
    let mut gids = BTreeMap::new();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (index, user) in image.users.iter().enumerate() {
        let at = |field: &str| steps!["user", index, field];
        if !names.insert(&user.name) {
            return Err(fault(at("name"), format!("{} is defined twice", user.name)));
        }
        if let Some(other) = uids.insert(user.uid, &user.name) {
            return Err(fault(at("uid"), format!("uid {} is {other}'s", user.uid)));
        }
        if let Some(other) = gids.insert(user.gid, &user.name) {
            return Err(fault(at("gid"), format!("gid {} is {other}'s", user.gid)));
        }
        if let Some(ids) = user.subids {
            let (first, end) =
                (u64::from(ids.first()), u64::from(ids.first()) + u64::from(ids.count()));
            if ranges.iter().any(|&(from, to)| first < to && from < end) {
                return Err(fault(at("subids"), "this range overlaps another user's"));
            }
            ranges.push((first, end));
        }
    }
    for (index, group) in image.groups.iter().enumerate() {
        let at = |field: &str| steps!["group", index, field];
        if !names.insert(&group.name) {
            return Err(fault(at("name"), format!("{} is defined twice", group.name)));
        }
        if let Some(other) = gids.insert(group.gid, &group.name) {
            return Err(fault(at("gid"), format!("gid {} is {other}'s", group.gid)));
        }
    }
    Ok(())
}

fn check_places(image: &Image) -> Result<(), Fault> {
    let mut seen = BTreeSet::new();
    let links = image.links.iter().enumerate().map(|(i, l)| (&l.path, steps!["link", i, "path"]));
    let concats =
        image.concats.iter().enumerate().map(|(i, c)| (&c.path, steps!["concat", i, "path"]));
    let installs = image
        .programs
        .install
        .iter()
        .enumerate()
        .map(|(i, p)| (&p.path, steps!["programs", "install", i, "path"]));
    for (path, steps) in links.chain(concats).chain(installs) {
        if !seen.insert(path) {
            return Err(fault(steps, format!("{path} is written twice by this recipe")));
        }
    }
    for (index, fix) in image.files.iter().enumerate() {
        if fix.mode.is_none() && fix.owner.is_none() {
            let message = format!("nothing to change: give {} a mode or an owner", fix.path);
            return Err(fault(steps!["file", index, "path"], message));
        }
    }
    for unit in &image.units.mask {
        if let Some(index) = image.units.enable.iter().position(|other| other == unit) {
            let message = format!("{unit} is both enabled and masked");
            return Err(fault(steps!["units", "enable", index], message));
        }
    }
    if image.programs.source.is_absolute() {
        return Err(fault(steps!["programs", "source"], "must be relative to the recipe's folder"));
    }
    Ok(())
}

fn check_measure(image: &Image) -> Result<(), Fault> {
    for (field, empty) in [
        ("cpu_models", image.measure.cpu_models.is_empty()),
        ("guest_features", image.measure.guest_features.is_empty()),
    ] {
        if empty {
            return Err(fault(steps!["measure", field], "an empty list measures nothing"));
        }
    }
    if let Err(refusal) = image.measure.guest_policy.get().least_linux() {
        return Err(fault(steps!["measure", "guest_policy"], refusal.to_string()));
    }
    if let Some(Err(error)) = image.id_block.as_ref().map(|block| block.identity().check()) {
        return Err(fault(steps!["id_block", error.field], error.to_string()));
    }
    Ok(())
}
