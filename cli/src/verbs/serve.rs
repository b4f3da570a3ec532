//! `serve`: the daemon. `publish`: what it publishes, without it.

use anyhow::Context as _;
use casemate_launcher::SupervisorCommand;
use casemate_launcher::confine::Confinement;
use casemate_launcher::release::Release;
use casemate_launcher::serve::{self, SOCKET_FILE, Settings};
use casemate_launcher::state::StateRoot;
use casemate_measurements::export::{Subject, sek8s_yaml};
use casemate_measurements::manifest::ReferenceValue;

use crate::args::{PublishArgs, PublishFormat, ServeArgs, UnitFile};
use crate::outcome::{HintExt as _, Outcome};
use crate::printer;

const SERVICE: &str = include_str!("../../../launcher/systemd/casemate.service");
const SOCKET: &str = include_str!("../../../launcher/systemd/casemate.socket");
const SYSUSERS: &str = include_str!("../../../launcher/systemd/casemate.sysusers.conf");
const UDEV: &str = include_str!("../../../launcher/systemd/casemate.rules");

/// Serves until told to end.
pub(crate) fn serve(args: &ServeArgs) -> anyhow::Result<Outcome> {
    if let Some(file) = args.print_unit {
        let text = match file {
            UnitFile::Service => SERVICE,
            UnitFile::Socket => SOCKET,
            UnitFile::Sysusers => SYSUSERS,
            UnitFile::Udev => UDEV,
        };
        printer::line(text.trim_end())?;
        return Ok(Outcome::Done);
    }
    let root = StateRoot::from_environment()?;
    let records = args.records.clone().or_else(serve::default_records);
    let records = records
        .context("there is no place for the records")
        .hint("set HOME, XDG_STATE_HOME or --records DIR")?;
    if let Some(parent) = records.parent() {
        let made = std::fs::create_dir_all(parent);
        made.with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let detected = Confinement::detect();
    let confinement = Confinement {
        user: args.qemu_user.clone().or(detected.user),
        cgroup: args.cgroup.clone().or(detected.cgroup),
    };
    let socket = root.dir().join(SOCKET_FILE);
    let supervisor =
        SupervisorCommand::this_program().context("cannot tell which program this is")?;
    let settings = Settings {
        root,
        records,
        socket,
        wanted: args.vms.clone(),
        publish: args.publish,
        public_host: args.public_host.clone(),
        confinement,
        supervisor,
    };
    serve::serve(settings, |up| {
        printer::say(&format!("serving at {}", up.socket.display()));
        if let Some(address) = up.published_at {
            printer::say(&format!("publishing at http://{address}"));
        }
    })?;
    Ok(Outcome::Done)
}

/// Prints the launch digests of a release as a miner publishes them.
pub(crate) fn publish(args: &PublishArgs) -> anyhow::Result<Outcome> {
    let release = Release::open(&args.release)?;
    let manifest = release.manifest();
    let fits = |row: &&ReferenceValue| args.cpus.is_none_or(|cpus| row.vcpus.get() == cpus);
    let rows: Vec<ReferenceValue> =
        manifest.reference_values.iter().filter(fits).copied().collect();
    match args.format {
        PublishFormat::Json => printer::json(&rows)?,
        PublishFormat::Sek8sYaml => {
            let (name, version) = (&manifest.release.name, &manifest.release.version);
            let yaml = sek8s_yaml(Subject { name, version }, &rows)
                .hint("the manifest lists no launch with so many vCPUs")?;
            printer::line(yaml.trim_end())?;
        }
    }
    Ok(Outcome::Done)
}
