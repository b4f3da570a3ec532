//! What a build is going to do, as values: nothing is read or run to make one.
//!
//! For people who want to see it first (`--plan`), and for the build, which executes it.

use std::fmt::{self, Write as _};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::Inputs;
use casemate_measurements::platform::Platform;
use serde::Serialize;

use crate::lock::{Closure, Lock};
use crate::recipe::Recipe;

/// The packages of one closure.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedClosure {
    /// Which one.
    pub closure: Closure,
    /// The packages as `name_version_architecture`, sorted.
    pub packages: Vec<String>,
    /// The length of their files in bytes.
    pub bytes: u64,
    /// A hash of their hashes.
    pub digest: Sha256Hash,
}

/// A plan.
#[derive(Debug, Clone, Serialize)]
pub struct BuildPlan {
    /// The image's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The platform that it is built for.
    pub platform: Platform,
    /// What it is built from.
    pub inputs: Inputs,
    /// A hash of name, version, platform and inputs: equal plans make equal releases.
    pub digest: Sha256Hash,
    /// The packages.
    pub closures: Vec<PlannedClosure>,
    /// What is done, in this order.
    pub steps: Vec<String>,
}

impl BuildPlan {
    /// Plans the build of `recipe` from `lock`. `overlay` and `guest` are the digests of the
    /// recipe's own files and of the sources of the guest's programs.
    #[must_use]
    pub fn new(
        recipe: &Recipe,
        lock: &Lock,
        overlay: Sha256Hash,
        guest: Sha256Hash,
        platform: Platform,
    ) -> Self {
        let inputs = Inputs {
            recipe_sha256: recipe.sha256(),
            lock_sha256: lock.sha256(),
            overlay_sha256: overlay,
            guest_sha256: guest,
        };
        let (name, version) = (recipe.name.to_string(), recipe.version.to_string());
        let Inputs { recipe_sha256, lock_sha256, overlay_sha256, guest_sha256 } = &inputs;
        let text = format!(
            "casemate-plan-v1\n{name}\n{version}\n{platform}\n{recipe_sha256}\n{lock_sha256}\n\
             {overlay_sha256}\n{guest_sha256}\n"
        );
        let closures =
            Closure::of(recipe).into_iter().map(|closure| planned(lock, closure)).collect();
        Self {
            name,
            version,
            platform,
            inputs,
            digest: Sha256Hash::of(text.as_bytes()),
            closures,
            steps: steps(recipe),
        }
    }

    /// The hash of the packages of `closure`.
    #[must_use]
    pub fn closure_digest(&self, closure: &Closure) -> Sha256Hash {
        let found = self.closures.iter().find(|planned| planned.closure == *closure);
        found.map_or_else(|| Sha256Hash::of(b""), |planned| planned.digest)
    }
}

fn planned(lock: &Lock, closure: Closure) -> PlannedClosure {
    let mut hashes = format!("casemate-closure-v1\n{closure}\n");
    let mut packages = Vec::new();
    let mut bytes = 0;
    for package in lock.closure(&closure) {
        let _ = writeln!(hashes, "{}", package.sha256);
        packages.push(package.to_string());
        bytes += package.size;
    }
    PlannedClosure { closure, packages, bytes, digest: Sha256Hash::of(hashes.as_bytes()) }
}

fn steps(recipe: &Recipe) -> Vec<String> {
    let guest = &recipe.guest;
    let (users, groups) = (recipe.users.len(), recipe.groups.len());
    let units = &recipe.units;
    let mut steps = vec![
        "fetch what is not in the cache, each file by its hash".to_owned(),
        "unpack the packages, assemble the tools".to_owned(),
        format!("compile {} with the tools, without network", recipe.programs.package),
        "merge the packages of the guest; any overlap is an error".to_owned(),
        format!("drop {} patterns, keep {}", guest.drop.len(), guest.keep.len()),
        format!("take {} kernel modules and theirs, run depmod", recipe.kernel.root_modules.len()),
    ];
    steps.extend(recipe.programs.install.iter().map(|install| {
        format!("install {} as {} ({})", install.binary, install.path, install.mode)
    }));
    steps.extend(recipe.programs.linked.iter().map(|linked| {
        format!(
            "compile {}, linked with the guest's C library, and install {} as {} ({})",
            linked.package, linked.binary, linked.path, linked.mode
        )
    }));
    for stage in &recipe.stages {
        let outputs: Vec<String> =
            stage.outputs.iter().map(|o| format!("{} ({})", o.file, o.to)).collect();
        let outputs = outputs.join(", ");
        steps.push(format!("stage {}: make {outputs} without network", stage.name));
    }
    steps.extend(recipe.concats.iter().map(|concat| format!("write {} from others", concat.path)));
    steps.extend([
        format!("make {} links", recipe.links.len()),
        "copy the overlay".to_owned(),
        format!("write accounts: Debian's fixed ones, {users} users, {groups} groups"),
        format!(
            "enable {} units, mask {}, disable all others",
            units.enable.len(),
            units.mask.len()
        ),
        format!("change mode or owner of {} files", recipe.files.len()),
        "make the erofs image and its hash tree".to_owned(),
        format!(
            "make the initrd of {} and {} kernel modules and theirs",
            recipe.programs.init,
            recipe.kernel.initrd_modules.len()
        ),
        format!(
            "measure {} shapes",
            recipe.measure.vcpus.as_slice().len()
                * recipe.measure.cpu_models.len()
                * recipe.measure.guest_features.len()
        ),
        "write the release, whole or not at all".to_owned(),
    ]);
    steps
}

impl fmt::Display for BuildPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image     {} {} for {}", self.name, self.version, self.platform)?;
        writeln!(f, "inputs    {}", self.digest)?;
        let Inputs { recipe_sha256, lock_sha256, overlay_sha256, guest_sha256 } = &self.inputs;
        for (name, hash) in [
            ("recipe", recipe_sha256),
            ("lock", lock_sha256),
            ("overlay", overlay_sha256),
            ("guest", guest_sha256),
        ] {
            writeln!(f, "  {name:<9}{hash}")?;
        }
        writeln!(f, "packages")?;
        for PlannedClosure { closure, packages, bytes, digest } in &self.closures {
            let (count, megabytes) = (packages.len(), bytes / 1_000_000);
            writeln!(f, "  {:<9}{count:>4}, {megabytes:>4} MB, {digest}", closure.name())?;
        }
        writeln!(f, "steps")?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "  {:>2}. {step}", number + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::lock::LockedPackage;

    fn recipe() -> Recipe {
        Recipe::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/cpu-sandbox")).unwrap()
    }

    fn package(name: &str, version: &str, closures: &str) -> LockedPackage {
        toml::from_str(&format!(
            "name = {name:?}\nversion = {version:?}\narchitecture = \"amd64\"\n\
             archive = \"debian\"\nsuite = \"trixie\"\npath = \"pool/x.deb\"\nsize = 2000000\n\
             sha256 = \"{}\"\nclosures = {closures}\n",
            Sha256Hash::of(format!("{name} {version}").as_bytes())
        ))
        .unwrap()
    }

    fn lock(recipe: &Recipe, systemd: &str) -> Lock {
        let packages = vec![
            package("systemd", systemd, "[\"guest\"]"),
            package("kmod", "34", "[\"guest\", \"tools\"]"),
        ];
        Lock::new(recipe.request_hash(), Vec::new(), packages)
    }

    #[test]
    fn a_plan_names_packages_and_steps() {
        let recipe = recipe();
        let plan = BuildPlan::new(
            &recipe,
            &lock(&recipe, "257"),
            Sha256Hash::of(b"overlay"),
            Sha256Hash::of(b"guest"),
            Platform::Simulated,
        );
        let text = plan.to_string();
        assert!(text.starts_with("image     cpu-sandbox"), "{text}");
        assert!(text.contains("  guest       2,    4 MB, "), "{text}");
        assert!(text.contains("  tools       1,    2 MB, "), "{text}");
        assert!(text.contains("compile casemate-guest with the tools"), "{text}");
        assert!(
            text.contains("install casemate-agent as /usr/lib/casemate/agent (0755)"),
            "{text}"
        );
        let guest = plan.closures.iter().find(|c| c.closure == Closure::Guest).unwrap();
        assert_eq!(guest.packages, ["kmod_34_amd64", "systemd_257_amd64"]);
    }

    #[test]
    fn each_input_changes_the_digest_and_closures_change_alone() {
        let recipe = recipe();
        let plan = |systemd: &str, overlay: &[u8], guest: &[u8], platform| {
            let (overlay, guest) = (Sha256Hash::of(overlay), Sha256Hash::of(guest));
            BuildPlan::new(&recipe, &lock(&recipe, systemd), overlay, guest, platform)
        };
        let base = plan("257", b"o", b"g", Platform::Snp);
        assert_eq!(plan("257", b"o", b"g", Platform::Snp).digest, base.digest);
        for other in [
            plan("258", b"o", b"g", Platform::Snp),
            plan("257", b"p", b"g", Platform::Snp),
            plan("257", b"o", b"h", Platform::Snp),
            plan("257", b"o", b"g", Platform::Simulated),
        ] {
            assert_ne!(other.digest, base.digest);
        }
        let moved = plan("258", b"o", b"g", Platform::Snp);
        assert_eq!(moved.closure_digest(&Closure::Tools), base.closure_digest(&Closure::Tools));
        assert_ne!(moved.closure_digest(&Closure::Guest), base.closure_digest(&Closure::Guest));
    }
}
