//! Whether the guest's programs will find their libraries: asked once the packages are there, before
//! anything is compiled for minutes, and answered with the package or the pattern at fault.
//!
//! The image itself is checked again when it is made, with what was compiled.

use std::path::Path;

use casemate_measurements::hash::Sha256Hash;

use super::{BuildError, BuildOptions, Sources, tools};
use crate::deb::read_control;
use crate::fetch::Cache;
use crate::lock::{Closure, Lock, LockedPackage};
use crate::merge::Tree;
use crate::plan::BuildPlan;
use crate::progress::Progress;
use crate::recipe::{Destination, Exclude, Recipe};
use crate::steps::{self, Durability, MissingLibrary, StepError, derived, missing_libraries};

/// Checks the packages of the guest, less what the recipe drops, with what it adds. That they were
/// good is noted in the cache.
pub(super) fn check(
    sources: &Sources,
    plan: &BuildPlan,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let guest = plan.closure_digest(&Closure::Guest);
    let (recipe, overlay) = (plan.inputs.recipe_sha256, plan.inputs.overlay_sha256);
    let text = format!("casemate-libraries-v1\n{guest}\n{recipe}\n{overlay}\n");
    let key = Sha256Hash::of(text.as_bytes());
    let make = |_: &Path| -> Result<(), BuildError> {
        let packages = sources.lock.closure(&Closure::Guest).collect::<Vec<_>>();
        let whole = tools::merged(&packages, options, progress)?;
        let recipe = &sources.recipe;
        let mut tree = whole.clone();
        steps::drop_paths(&mut tree, &recipe.guest.drop, &recipe.guest.keep);
        // What stages will make may be libraries.
        for output in recipe.stages.iter().flat_map(|stage| &stage.outputs) {
            if let Destination::Guest(path) = &output.to {
                tree.put_file(path.as_str().trim_start_matches('/'), 0o644, b"")
                    .map_err(StepError::from)?;
            }
        }
        steps::link(&mut tree, &recipe.links)?;
        sources.overlay.apply(&mut tree)?;
        let missing = missing_libraries(&tree)?;
        if missing.is_empty() {
            return Ok(());
        }
        let why = |missing: &MissingLibrary| {
            let why = reason(missing, recipe, &sources.lock, &options.cache, &whole);
            format!("{missing}{}", why.map(|why| format!(": {why}")).unwrap_or_default())
        };
        let missing = missing.iter().map(why).collect();
        Err(StepError::Libraries { missing }.into())
    };
    derived(&options.cache, "libraries", &key, Durability::CheckedOnUse, make).map(drop)
}

/// Why a library is not there, if that can be known.
fn reason(
    missing: &MissingLibrary,
    recipe: &Recipe,
    lock: &Lock,
    cache: &Cache,
    whole: &Tree,
) -> Option<String> {
    let library = format!("/{}", missing.library);
    let dropped = whole.nodes().find(|(path, _)| format!("/{path}").ends_with(&library));
    if let Some((path, node)) = dropped {
        let package = whole.origin(node);
        let path = format!("/{path}");
        let mut drop = recipe.guest.drop.iter();
        let by = drop.find(|pattern| {
            let above = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
            above.chain([path.as_str()]).any(|path| pattern.matches(path))
        })?;
        let by = by.as_str();
        return Some(format!("{package} has it, and [guest] drop leaves {path} out by {by:?}"));
    }
    let guest = Closure::Guest;
    let of = |package: &&LockedPackage| package.name.as_str() == missing.package;
    let package = lock.closure(&guest).find(of)?;
    let control = read_control(&cache.blob(package.sha256)).ok()?;
    let depends = ["Depends", "Pre-Depends"].map(|field| control.field(field).unwrap_or_default());
    left_out(&missing.library, &missing.package, &depends.join(","), &recipe.guest.exclude)
}

/// The excluded packages that `package` depends on, of which one has `library`: the one whose name
/// says so, else all.
fn left_out(library: &str, package: &str, depends: &str, exclude: &[Exclude]) -> Option<String> {
    let names = depends
        .split([',', '|'])
        .map(|clause| clause.trim().split([' ', '(', ':', '[']).next().unwrap_or_default());
    let names: Vec<&str> = names.collect();
    let out = exclude.iter().filter(|entry| names.contains(&entry.package.as_str()));
    let out: Vec<&Exclude> = out.collect();
    let stem = package_stem(library);
    let fits = |entry: &&&Exclude| entry.package.as_str().starts_with(&stem);
    let likely: Vec<&Exclude> = out.iter().filter(fits).copied().collect();
    let likely = if likely.is_empty() { out } else { likely };
    let one = |entry: &&Exclude| format!("{} ({})", entry.package, entry.reason);
    let list: Vec<String> = likely.iter().map(one).collect();
    let first = likely.first()?.package.as_str();
    Some(format!(
        "{package} depends on {}, which [[guest.exclude]] leaves out. To have it: take that entry away \
         (where an extended recipe has it: [remove] exclude = [\"{first}\"])",
        list.join(" and ")
    ))
}

/// What the name of Debian's package of a library begins with (policy, 8.1): `libldap2` of
/// `libldap.so.2`, `libx11-6` of `libX11.so.6`.
fn package_stem(library: &str) -> String {
    let (name, version) = library.split_once(".so").unwrap_or((library, ""));
    let version = version.trim_start_matches('.');
    let part = if name.ends_with(|c: char| c.is_ascii_digit()) { "-" } else { "" };
    format!("{name}{part}{version}").to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(list: &[&str]) -> Vec<Exclude> {
        let one = |name: &&str| Exclude { package: name.parse().unwrap(), reason: "unused".into() };
        list.iter().map(one).collect()
    }

    #[test]
    fn packages_of_libraries_are_named_as_debian_names_them() {
        for (library, package) in [
            ("libldap.so.2", "libldap2"),
            ("libX11.so.6", "libx11-6"),
            ("libstdc++.so.6", "libstdc++6"),
            ("libgcc_s.so.1", "libgcc-s1"),
            ("libjvm.so", "libjvm"),
        ] {
            assert_eq!(package_stem(library), package);
        }
    }

    #[test]
    fn the_excluded_package_is_named_with_its_reason_and_the_mend() {
        let depends = "libc6 (>= 2.38), libldap2 (>= 2.6.2), perl:any | perl-base";
        let out = exclude(&["perl-base", "libldap2", "udev"]);
        let text = left_out("libldap.so.2", "libcurl4t64", depends, &out).unwrap();
        assert!(text.starts_with("libcurl4t64 depends on libldap2 (unused), which"), "{text}");
        assert!(text.contains("[remove] exclude = [\"libldap2\"]"), "{text}");
        let text = left_out("libother.so.1", "x", depends, &out).unwrap();
        assert!(text.contains("perl-base (unused) and libldap2 (unused)"), "{text}");
        assert_eq!(left_out("libother.so.1", "x", "libc6", &out), None);
    }
}
