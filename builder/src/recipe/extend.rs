//! A recipe that extends another: it names only what differs.
//!
//! Lists are added to, `[remove]` takes away first, a single value replaces, and the tables
//! `[firmware]` and `[id_block]` replace as a whole. What is removed must be there, what is
//! added must not be: a recipe that drifted from its base is refused, not guessed at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check::Fault;
use super::{
    AccountName, Archive, ArchiveName, Cmdline, Concat, CrateName, Exclude, FileFix, FileName,
    Firmware, Group, GuestPath, IdBlock, Image, ImageName, ImageVersion, Install, Link, Linked,
    LocalPath, Measure, ModuleName, OwnFile, PackageName, PackageSpec, PathPattern, Programs,
    SCHEMA, Stage, StageFile, StageInput, StageName, StageOutput, StageSource, Step, UnitName,
    User,
};

/// The contents of an `image.toml` with `extends`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extension {
    schema: u32,
    /// The folder of the recipe to start from, relative to this one's.
    pub(super) extends: PathBuf,
    name: ImageName,
    version: ImageVersion,
    epoch: Option<u32>,
    #[serde(default)]
    remove: Remove,
    #[serde(default)]
    change: Change,
    #[serde(default)]
    archive: BTreeMap<ArchiveName, MoreArchive>,
    #[serde(default)]
    guest: MoreGuest,
    #[serde(default)]
    tools: MoreTools,
    firmware: Option<Firmware>,
    #[serde(default)]
    kernel: MoreKernel,
    #[serde(default)]
    programs: MorePrograms,
    #[serde(default, rename = "stage")]
    stages: Vec<Stage>,
    #[serde(default, rename = "user")]
    users: Vec<User>,
    #[serde(default, rename = "group")]
    groups: Vec<Group>,
    #[serde(default, rename = "link")]
    links: Vec<Link>,
    #[serde(default, rename = "file")]
    files: Vec<FileFix>,
    #[serde(default, rename = "concat")]
    concats: Vec<Concat>,
    #[serde(default)]
    units: MoreUnits,
    measure: Option<Measure>,
    id_block: Option<IdBlock>,
}

/// What the base has and this image has not.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Remove {
    packages: Vec<PackageName>,
    exclude: Vec<PackageName>,
    drop: Vec<PathPattern>,
    keep: Vec<PathPattern>,
    tools: Vec<PackageName>,
    cmdline: Vec<Cmdline>,
    initrd_modules: Vec<ModuleName>,
    root_modules: Vec<ModuleName>,
    stages: Vec<StageName>,
    users: Vec<AccountName>,
    groups: Vec<AccountName>,
    links: Vec<GuestPath>,
    files: Vec<GuestPath>,
    concats: Vec<GuestPath>,
    enable: Vec<UnitName>,
    mask: Vec<UnitName>,
}

/// What the base has and this image has otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Change {
    stage: BTreeMap<StageName, StageChange>,
}

/// How a stage of the base differs. What it makes stays; it can make more.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StageChange {
    packages: Vec<PackageSpec>,
    exclude: Vec<Exclude>,
    #[serde(rename = "source")]
    sources: Vec<StageSource>,
    #[serde(rename = "file")]
    files: Vec<StageFile>,
    patches: Vec<OwnFile>,
    own: Vec<OwnFile>,
    #[serde(rename = "input")]
    inputs: Vec<StageInput>,
    #[serde(rename = "output")]
    outputs: Vec<StageOutput>,
    prepare: Option<String>,
    command: Option<String>,
    remove: StageRemove,
}

/// What a stage of the base has and it has not here.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StageRemove {
    packages: Vec<PackageName>,
    exclude: Vec<PackageName>,
    sources: Vec<PackageName>,
    files: Vec<FileName>,
    patches: Vec<LocalPath>,
    own: Vec<LocalPath>,
}

/// Where a recipe changes a stage of its base.
fn steps_of_change(name: &StageName) -> Vec<Step> {
    vec!["change".into(), "stage".into(), name.as_str().into()]
}

impl StageChange {
    /// Takes from a stage of the base what is to be removed.
    fn reduce(&self, name: &StageName, stages: &mut [Stage]) -> Result<(), Fault> {
        let Some(stage) = stages.iter_mut().find(|stage| stage.name == *name) else {
            let message = format!("the base has no stage {name}");
            return Err(Fault { steps: steps_of_change(name), message });
        };
        let gone = &self.remove;
        let mut removed = || {
            let spec = |spec: &PackageSpec, name: &PackageName| spec.name() == name;
            remove("packages", &mut stage.packages, &gone.packages, spec)?;
            remove("exclude", &mut stage.exclude, &gone.exclude, |a, b| a.package == *b)?;
            remove("sources", &mut stage.sources, &gone.sources, |a, b| a.package.name() == b)?;
            remove("files", &mut stage.files, &gone.files, |a, b| a.name == *b)?;
            remove("own", &mut stage.own, &gone.own, |a, b| a.path() == b)?;
            remove("patches", &mut stage.patches, &gone.patches, |a, b| a.path() == b)
        };
        removed().map_err(|fault| Fault {
            steps: [steps_of_change(name), fault.steps].concat(),
            message: fault.message,
        })
    }

    /// Adds to the reduced stage what is said of it in the folder `dir`.
    fn add(mut self, stage: &mut Stage, dir: &Path) {
        self.patches.iter_mut().chain(&mut self.own).for_each(|file| file.found_in(dir));
        stage.patches.extend(self.patches);
        stage.own.extend(self.own);
        stage.inputs.extend(self.inputs);
        stage.outputs.extend(self.outputs);
        stage.packages.extend(self.packages);
        stage.exclude.extend(self.exclude);
        stage.sources.extend(self.sources);
        stage.files.extend(self.files);
        stage.prepare = self.prepare.unwrap_or(std::mem::take(&mut stage.prepare));
        stage.command = self.command.unwrap_or(std::mem::take(&mut stage.command));
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoreArchive {
    #[serde(default)]
    suites: Vec<super::Suite>,
    #[serde(default)]
    on_request: Vec<super::Suite>,
    #[serde(default)]
    flat: bool,
    #[serde(default)]
    components: Vec<super::Component>,
    #[serde(default)]
    keys: Vec<super::Fingerprint>,
    #[serde(default)]
    expired_ok: Vec<super::Suite>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MoreGuest {
    packages: Vec<PackageSpec>,
    exclude: Vec<Exclude>,
    drop: Vec<PathPattern>,
    keep: Vec<PathPattern>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MoreTools {
    packages: Vec<PackageSpec>,
    exclude: Vec<Exclude>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MoreKernel {
    package: Option<PackageSpec>,
    stage: Option<StageName>,
    cmdline: Option<Cmdline>,
    initrd_modules: Vec<ModuleName>,
    root_modules: Vec<ModuleName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MorePrograms {
    package: Option<CrateName>,
    init: Option<CrateName>,
    install: Vec<Install>,
    linked: Vec<Linked>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MoreUnits {
    enable: Vec<UnitName>,
    mask: Vec<UnitName>,
    default: Option<UnitName>,
}

/// Takes each of `gone` out of `list`; the first that is not there is a fault.
fn remove<T, K: std::fmt::Display>(
    field: &str,
    list: &mut Vec<T>,
    gone: &[K],
    is: impl Fn(&T, &K) -> bool,
) -> Result<(), Fault> {
    for (index, key) in gone.iter().enumerate() {
        let before = list.len();
        list.retain(|item| !is(item, key));
        if list.len() == before {
            let steps = vec!["remove".into(), field.into(), index.into()];
            let message = format!("{key} is not in the base: there is nothing to remove");
            return Err(Fault { steps, message });
        }
    }
    Ok(())
}

/// The name of a kernel parameter: what stands before `=`.
fn parameter(token: &str) -> &str {
    token.split('=').next().unwrap_or(token)
}

impl Extension {
    /// Takes from `base` what is to be removed.
    pub(super) fn reduce(&self, base: &mut Image) -> Result<(), Fault> {
        let gone = &self.remove;
        let spec = |spec: &PackageSpec, name: &PackageName| spec.name() == name;
        remove("packages", &mut base.guest.packages, &gone.packages, spec)?;
        remove("tools", &mut base.tools.packages, &gone.tools, spec)?;
        let excluded = |entry: &Exclude, name: &PackageName| entry.package == *name;
        remove("exclude", &mut base.guest.exclude, &gone.exclude, excluded)?;
        remove("drop", &mut base.guest.drop, &gone.drop, |a, b| a == b)?;
        remove("keep", &mut base.guest.keep, &gone.keep, |a, b| a == b)?;
        let kernel = &mut base.kernel;
        remove("initrd_modules", &mut kernel.initrd_modules, &gone.initrd_modules, |a, b| a == b)?;
        remove("root_modules", &mut kernel.root_modules, &gone.root_modules, |a, b| a == b)?;
        let mut tokens: Vec<String> =
            kernel.cmdline.as_str().split(' ').map(str::to_owned).collect();
        remove("cmdline", &mut tokens, &gone.cmdline, |a, b| a == b.as_str())?;
        kernel.cmdline = tokens.join(" ").parse().map_err(|error: super::WordError| Fault {
            steps: vec!["remove".into(), "cmdline".into()],
            message: error.to_string(),
        })?;
        remove("stages", &mut base.stages, &gone.stages, |a, b| a.name == *b)?;
        for (name, change) in &self.change.stage {
            change.reduce(name, &mut base.stages)?;
        }
        remove("users", &mut base.users, &gone.users, |a, b| a.name == *b)?;
        remove("groups", &mut base.groups, &gone.groups, |a, b| a.name == *b)?;
        remove("links", &mut base.links, &gone.links, |a, b| a.path == *b)?;
        remove("files", &mut base.files, &gone.files, |a, b| a.path == *b)?;
        remove("concats", &mut base.concats, &gone.concats, |a, b| a.path == *b)?;
        remove("enable", &mut base.units.enable, &gone.enable, |a, b| a == b)?;
        remove("mask", &mut base.units.mask, &gone.mask, |a, b| a == b)
    }

    /// Adds to `image`, the base after [`Extension::reduce`], all that this recipe says. `dir` is
    /// its folder.
    pub(super) fn add(mut self, image: &mut Image, dir: &Path) -> Result<(), Fault> {
        if self.schema != SCHEMA {
            let message =
                format!("schema {} is unknown: this casemate reads {SCHEMA}", self.schema);
            return Err(Fault { steps: vec!["schema".into()], message });
        }
        image.name = self.name;
        image.version = self.version;
        image.epoch = self.epoch.unwrap_or(image.epoch);
        for (name, more) in self.archive {
            let empty = || Archive {
                suites: Vec::new(),
                on_request: Vec::new(),
                flat: false,
                components: Vec::new(),
                keys: Vec::new(),
                expired_ok: Vec::new(),
            };
            let archive = image.archive.entry(name).or_insert_with(empty);
            archive.flat |= more.flat;
            archive.suites.extend(more.suites);
            archive.on_request.extend(more.on_request);
            archive.components.extend(more.components);
            archive.keys.extend(more.keys);
            archive.expired_ok.extend(more.expired_ok);
        }
        image.guest.packages.extend(self.guest.packages);
        image.guest.exclude.extend(self.guest.exclude);
        image.guest.drop.extend(self.guest.drop);
        image.guest.keep.extend(self.guest.keep);
        image.tools.packages.extend(self.tools.packages);
        image.tools.exclude.extend(self.tools.exclude);
        if let Some(firmware) = self.firmware {
            image.firmware = firmware;
        }
        self.kernel.add(&mut image.kernel)?;
        let Programs { package, init, install, linked, .. } = &mut image.programs;
        if let Some(other) = self.programs.package {
            *package = other;
        }
        if let Some(other) = self.programs.init {
            *init = other;
        }
        install.extend(self.programs.install);
        linked.extend(self.programs.linked);
        for stage in &mut image.stages {
            if let Some(change) = self.change.stage.remove(&stage.name) {
                change.add(stage, dir);
            }
        }
        for stage in &mut self.stages {
            stage.found_in(dir);
        }
        image.stages.extend(self.stages);
        image.users.extend(self.users);
        image.groups.extend(self.groups);
        image.links.extend(self.links);
        image.files.extend(self.files);
        image.concats.extend(self.concats);
        image.units.enable.extend(self.units.enable);
        image.units.mask.extend(self.units.mask);
        if let Some(default) = self.units.default {
            image.units.default = default;
        }
        if let Some(measure) = self.measure {
            image.measure = measure;
        }
        image.id_block = self.id_block.or(image.id_block.take());
        Ok(())
    }
}

impl MoreKernel {
    fn add(self, kernel: &mut super::Kernel) -> Result<(), Fault> {
        if self.package.is_some() || self.stage.is_some() {
            (kernel.package, kernel.stage) = (self.package, self.stage);
        }
        if let Some(more) = self.cmdline {
            let steps = || vec!["kernel".into(), "cmdline".into()];
            for token in more.as_str().split(' ') {
                let name = parameter(token);
                let clash = kernel.cmdline.as_str().split(' ').find(|old| parameter(old) == name);
                if let Some(clash) = clash {
                    let message = format!(
                        "the base has {clash} already: list it in remove.cmdline to replace it"
                    );
                    return Err(Fault { steps: steps(), message });
                }
            }
            let line = [kernel.cmdline.as_str(), more.as_str()].join(" ");
            kernel.cmdline = line.trim().parse().map_err(|error: super::WordError| Fault {
                steps: steps(),
                message: error.to_string(),
            })?;
        }
        kernel.initrd_modules.extend(self.initrd_modules);
        kernel.root_modules.extend(self.root_modules);
        Ok(())
    }
}

/// Which part of an image comes from the base alone, and which a recipe that extends it said.
pub(super) struct Origin {
    base: toml::Table,
    changed: Vec<StageName>,
}

impl Origin {
    /// What `extension` finds in `base`, the reduced base.
    pub(super) fn new(base: &Image, extension: &Extension) -> Self {
        let base = toml::Table::try_from(base).unwrap_or_default();
        Self { base, changed: extension.change.stage.keys().cloned().collect() }
    }

    /// Where `steps` into the whole image lead in the recipe that extends the base: the places of
    /// list items that it added are counted from its own first. `None` for an item that is the
    /// base's, unless it is of a stage that was changed: the base alone had no fault.
    pub(super) fn own_steps(&self, steps: &[Step]) -> Option<Vec<Step>> {
        if let [Step::Key(key), Step::Index(index), below @ ..] = steps
            && key == "stage"
            && let Some(stage) = self.base.get(key).and_then(|stages| stages.get(*index))
        {
            let name = stage.get("name").and_then(toml::Value::as_str);
            let changed = self.changed.iter().find(|changed| Some(changed.as_str()) == name)?;
            let below = own_below(Some(stage), below).unwrap_or_default();
            return Some([steps_of_change(changed), below].concat());
        }
        let (first, below) = steps.split_first()?;
        let Step::Key(key) = first else { return None };
        Some([vec![first.clone()], own_below(self.base.get(key), below)?].concat())
    }
}

/// Where `steps` lead in a recipe whose base has `base` there.
fn own_below(mut base: Option<&toml::Value>, steps: &[Step]) -> Option<Vec<Step>> {
    let mut own = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        match (step, base) {
            (Step::Key(key), _) => base = base.and_then(|value| value.get(key.as_str())),
            (Step::Index(item), Some(toml::Value::Array(list))) => {
                own.push(Step::Index(item.checked_sub(list.len())?));
                own.extend_from_slice(&steps[index + 1..]);
                return Some(own);
            }
            (Step::Index(_), _) => {}
        }
        own.push(step.clone());
    }
    Some(own)
}
