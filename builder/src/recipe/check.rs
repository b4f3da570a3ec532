//! What must hold across the fields of a recipe.

use std::collections::{BTreeMap, BTreeSet};

use casemate_measurements::manifest::{FIRMWARE_ADDRESS_BITS, MOST_FIRMWARE_ADDRESS_BITS};

use super::{
    Destination, Exclude, Image, PackageSpec, SCHEMA, Stage, StageName, StageOutput, Step,
};

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
        if archive.components.is_empty() && !archive.flat {
            return Err(fault(at("components"), "no component to take packages from"));
        }
        let suites = archive.suites.len() + archive.on_request.len();
        if archive.flat && (suites != 1 || !archive.components.is_empty()) {
            return Err(fault(at("flat"), "a flat archive has one suite and no components"));
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
    let (guest, tools) = (&image.guest, &image.tools);
    check_closure(&[Step::from("guest")], &guest.packages, &guest.exclude, suites)?;
    check_closure(&[Step::from("tools")], &tools.packages, &tools.exclude, suites)?;
    for stage in &image.stages {
        check_stage(image, stage, suites)?;
    }
    check_firmware(image, suites)?;
    check_kernel(image, suites)
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
    table: &[Step],
    packages: &[PackageSpec],
    exclude: &[Exclude],
    suites: &BTreeSet<&str>,
) -> Result<(), Fault> {
    let below = |steps: Vec<Step>| [table, steps.as_slice()].concat();
    let mut names = BTreeSet::new();
    for (index, spec) in packages.iter().enumerate() {
        let at = || below(steps!["packages", index]);
        check_spec(spec, suites, at)?;
        if !names.insert(spec.name()) {
            return Err(fault(at(), format!("{} is asked for twice", spec.name())));
        }
    }
    let mut excluded = BTreeSet::new();
    for (index, entry) in exclude.iter().enumerate() {
        let at = |field: &str| below(steps!["exclude", index, field]);
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

fn check_stage(image: &Image, stage: &Stage, suites: &BTreeSet<&str>) -> Result<(), Fault> {
    let same = |(_, other): &(usize, &Stage)| other.name == stage.name;
    let mut positions = image.stages.iter().enumerate().filter(same).map(|(position, _)| position);
    let position = positions.next().unwrap_or(0);
    if let Some(again) = positions.next() {
        let message = format!("{} is defined twice", stage.name);
        return Err(fault(steps!["stage", again, "name"], message));
    }
    let table = steps!["stage", position];
    let at = |steps: Vec<Step>| [table.as_slice(), steps.as_slice()].concat();
    check_closure(&table, &stage.packages, &stage.exclude, suites)?;
    let mut names = BTreeSet::new();
    for (index, source) in stage.sources.iter().enumerate() {
        let steps = || at(steps!["source", index, "package"]);
        check_spec(&source.package, suites, steps)?;
        if !names.insert(source.package.name()) {
            return Err(fault(steps(), format!("{} is asked for twice", source.package.name())));
        }
    }
    let mut files = BTreeSet::new();
    for (index, file) in stage.files.iter().enumerate() {
        if !files.insert(&file.name) {
            let steps = at(steps!["file", index, "name"]);
            return Err(fault(steps, format!("{} stands here twice", file.name)));
        }
    }
    for (field, own) in [("patches", &stage.patches), ("own", &stage.own)] {
        let mut names = BTreeSet::new();
        for (index, file) in own.iter().enumerate() {
            if !names.insert(file.name()) {
                let message = format!("a second {}: the command sees names alone", file.name());
                return Err(fault(at(steps![field, index]), message));
            }
        }
    }
    check_inputs(image, position, stage, &at)?;
    if stage.command.trim().is_empty() || stage.command.contains('\0') {
        return Err(fault(at(steps!["command"]), "there is nothing to run"));
    }
    if stage.prepare.contains('\0') {
        return Err(fault(at(steps!["prepare"]), "it has a zero byte"));
    }
    if stage.outputs.is_empty() {
        return Err(fault(at(steps!["output"]), "a stage without output is of no use"));
    }
    check_outputs(image, stage, &at)
}

/// An input is an output of a stage that runs before.
fn check_inputs(
    image: &Image,
    position: usize,
    stage: &Stage,
    at: &dyn Fn(Vec<Step>) -> Vec<Step>,
) -> Result<(), Fault> {
    let mut names = BTreeSet::new();
    for (index, input) in stage.inputs.iter().enumerate() {
        let at = |field: &str| at(steps!["input", index, field]);
        let before = image.stages.iter().take(position).find(|other| other.name == input.stage);
        let Some(before) = before else {
            let message = format!("no stage before {} is called {}", stage.name, input.stage);
            return Err(fault(at("stage"), message));
        };
        if !before.outputs.iter().any(|output| output.file == input.file) {
            let message = format!("the stage {} has no output {}", input.stage, input.file);
            return Err(fault(at("file"), message));
        }
        if !names.insert(&input.file) {
            return Err(fault(at("file"), format!("{} stands here twice", input.file)));
        }
    }
    Ok(())
}

fn check_outputs(
    image: &Image,
    stage: &Stage,
    at: &dyn Fn(Vec<Step>) -> Vec<Step>,
) -> Result<(), Fault> {
    let mut outputs = BTreeSet::new();
    for (index, output) in stage.outputs.iter().enumerate() {
        let at = |field: &str| at(steps!["output", index, field]);
        if !outputs.insert(&output.file) {
            return Err(fault(at("file"), format!("{} stands here twice", output.file)));
        }
        match output.to {
            Destination::Guest(_) => {}
            _ if output.mode.is_some() => {
                return Err(fault(at("mode"), "only a file of the root file system has a mode"));
            }
            Destination::Module if output.file.as_str().strip_suffix(".ko").is_none() => {
                return Err(fault(at("file"), "a kernel module's name ends in .ko"));
            }
            Destination::Firmware if image.firmware.stage.as_ref() != Some(&stage.name) => {
                let message = format!("[firmware] does not name the stage {}", stage.name);
                return Err(fault(at("to"), message));
            }
            Destination::Kernel if image.kernel.stage.as_ref() != Some(&stage.name) => {
                let message = format!("[kernel] does not name the stage {}", stage.name);
                return Err(fault(at("to"), message));
            }
            Destination::Module
            | Destination::Firmware
            | Destination::Kernel
            | Destination::Stage => {}
        }
    }
    Ok(())
}

/// The stage `name`, which the table `table` names, makes the one file that becomes `what`.
fn check_maker(
    image: &Image,
    table: &str,
    name: &StageName,
    what: &Destination,
) -> Result<(), Fault> {
    let Some(stage) = image.stages.iter().find(|stage| stage.name == *name) else {
        return Err(fault(steps![table, "stage"], format!("there is no stage {name}")));
    };
    let makes = |output: &&StageOutput| output.to == *what;
    if stage.outputs.iter().filter(makes).count() != 1 {
        let message = format!("the stage {name} has no one output to = \"{what}\"");
        return Err(fault(steps![table, "stage"], message));
    }
    Ok(())
}

/// The kernel comes from a package or from a stage.
fn check_kernel(image: &Image, suites: &BTreeSet<&str>) -> Result<(), Fault> {
    match (&image.kernel.package, &image.kernel.stage) {
        (Some(package), None) => check_spec(package, suites, || steps!["kernel", "package"]),
        (None, Some(name)) => check_maker(image, "kernel", name, &Destination::Kernel),
        _ => Err(fault(steps!["kernel"], "expected package or stage")),
    }
}

/// The firmware comes from a package or from a stage, and it is said from where in there.
fn check_firmware(image: &Image, suites: &BTreeSet<&str>) -> Result<(), Fault> {
    let firmware = &image.firmware;
    match (&firmware.package, &firmware.path, &firmware.stage) {
        (Some(package), Some(_), None) => {
            check_spec(package, suites, || steps!["firmware", "package"])?;
        }
        (None, None, Some(name)) => {
            check_maker(image, "firmware", name, &Destination::Firmware)?;
        }
        _ => return Err(fault(steps!["firmware"], "expected package and path, or stage")),
    }
    match firmware.address_bits {
        Some(bits) if !(FIRMWARE_ADDRESS_BITS..=MOST_FIRMWARE_ADDRESS_BITS).contains(&bits) => {
            let message = format!(
                "{bits} is no width that firmware uses: expected {FIRMWARE_ADDRESS_BITS} to \
                 {MOST_FIRMWARE_ADDRESS_BITS}"
            );
            Err(fault(steps!["firmware", "address_bits"], message))
        }
        _ => Ok(()),
    }
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
    let linked = image.programs.linked.iter().enumerate();
    let installs =
        installs.chain(linked.map(|(i, p)| (&p.path, steps!["programs", "linked", i, "path"])));
    let stages = image.stages.iter().enumerate().flat_map(|(i, stage)| {
        stage.outputs.iter().enumerate().filter_map(move |(o, output)| match &output.to {
            Destination::Guest(path) => Some((path, steps!["stage", i, "output", o, "to"])),
            _ => None,
        })
    });
    for (path, steps) in links.chain(concats).chain(installs).chain(stages) {
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
