//! The tenant's session against real OpenSSH: the attested key gets in, nobody else does,
//! whatever the configuration on the tenant's machine says.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use casemate_validator::ssh::{self, KnownHosts, Session};
use tempfile::TempDir;

use crate::sshd::{Client, Sshd, available, has, stdout};

const WHO: &str = "echo $WHO";

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The machine under attack: the genuine sshd, and an impostor at the same port of another
/// address, which a hostile configuration wants the tenant to end up with.
struct Scene {
    dir: TempDir,
    client: Client,
    genuine: Sshd,
    impostor: Sshd,
}

impl Scene {
    fn new() -> Self {
        let client = Client::new();
        let genuine = Sshd::start("genuine", &client);
        let port = Some(genuine.port);
        let impostor = Sshd::start_with("impostor", &client, "127.0.0.2", port, "ed25519");
        Self { dir: tempfile::tempdir().unwrap(), client, genuine, impostor }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A session to the address of `sshd`.
    fn session(&self, sshd: &Sshd) -> Session {
        self.client.session(&sshd.address, sshd.port, WHO)
    }

    /// Our session, pinned to the genuine key, with the configuration `-F` names replaced.
    fn pinned(&self, session: &Session, config: &Path) -> Output {
        let known_hosts = KnownHosts::write(&self.genuine.host_key()).unwrap();
        let arguments = ssh::arguments(session, &known_hosts.path()).unwrap();
        output(Command::new("ssh").args(with_config(arguments, config)))
    }

    /// What a tenant without casemate would run, under the same configuration.
    fn plain(&self, session: &Session, config: &Path) -> Output {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(config).arg("-i").arg(self.client.identity());
        command.args(["-o", "BatchMode=yes", "-p", &session.port.to_string()]);
        output(command.arg(session.host.to_string()).args(&session.command))
    }

    /// Everything a configuration can do, as the lines of one.
    fn hostile_config(&self) -> String {
        let known = self.write("known", &self.impostor.any_host_line(), 0o644);
        format!(
            "UserKnownHostsFile {known}\nGlobalKnownHostsFile {known}\n\
             KnownHostsCommand /bin/cat {known}\nStrictHostKeyChecking no\n\
             NoHostAuthenticationForLocalhost yes\nVerifyHostKeyDNS yes\nUpdateHostKeys yes\n\
             HostKeyAlias evil\nHostKeyAlgorithms +ssh-rsa\nHostname {impostor}\n\
             CanonicalizeHostname always\nCanonicalizeFallbackLocal yes\n\
             ProxyCommand bash {relay}\nProxyUseFdpass yes\nControlPath {control}\nControlMaster auto\n\
             ControlPersist 60\nPermitLocalCommand yes\nLocalCommand touch {marker}\n\
             ForwardAgent yes\nForwardX11 yes\nTunnel yes\nAddKeysToAgent yes\n\
             RemoteForward 127.0.0.1:0 127.0.0.1:22\nRemoteCommand evil\nCheckHostIP yes\n\
             PreferredAuthentications password\nConnectTimeout 1\nServerAliveInterval 1\n\
             IdentitiesOnly no\nUser evil\nPort 9\n",
            known = known.display(),
            impostor = self.impostor.address,
            relay = self.relay().display(),
            control = self.path("c").display(),
            marker = self.path("marker").display(),
        )
    }

    /// A `ProxyCommand` that connects to the impostor, whoever was asked for.
    fn relay(&self) -> PathBuf {
        let (address, port) = (&self.impostor.address, self.impostor.port);
        // Ends with ssh, whose streams it must not keep open.
        let script = format!(
            "#!/bin/bash\nexec 2>/dev/null 3<>/dev/tcp/{address}/{port} 4<&0\n\
             cat <&4 >&3 &\nexec cat <&3\n"
        );
        self.write("relay", &script, 0o644)
    }
}

fn with_config(mut arguments: Vec<OsString>, config: &Path) -> Vec<OsString> {
    assert_eq!(arguments[..2], ["-F", "/dev/null"].map(OsString::from));
    arguments[1] = config.into();
    arguments
}

/// `ssh` failed itself, and because of the host key.
fn assert_refused(output: &Output, why: &str) {
    assert_eq!(output.status.code(), Some(255), "{why}: {output:?}");
    assert_eq!(text(&output.stdout), "", "{why}");
    assert!(text(&output.stderr).contains("Host key verification failed"), "{why}: {output:?}");
}

#[test]
fn the_attested_key_gets_in_and_exit_codes_pass_through() {
    if !available() {
        return;
    }
    let client = Client::new();
    let sshd = Sshd::start("genuine", &client);
    let mut session = client.session(&sshd.address, sshd.port, WHO);
    let known_hosts = KnownHosts::write(&sshd.host_key()).unwrap();
    let who = output(&mut ssh::command(&session, &known_hosts).unwrap());
    assert_eq!(text(&who.stdout), "genuine", "{who:?}");
    for code in [0, 7, 254] {
        session.command = vec!["exit".into(), code.to_string().into()];
        assert_eq!(ssh::run(&session, &sshd.host_key()).unwrap(), code);
    }
}

#[test]
fn another_key_is_refused() {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let refused = scene.pinned(&scene.session(&scene.impostor), Path::new("/dev/null"));
    assert_refused(&refused, "other ed25519 key");
    let mut session = scene.session(&scene.impostor);
    session.command = vec![format!("touch {}", scene.path("marker").display()).into()];
    assert_eq!(ssh::run(&session, &scene.genuine.host_key()).unwrap(), 255);
    assert!(!scene.path("marker").exists());
    for kind in ["rsa", "ecdsa"] {
        let other = Sshd::start_with("other", &scene.client, "127.0.0.1", None, kind);
        let refused = scene.pinned(&scene.session(&other), Path::new("/dev/null"));
        assert_eq!(refused.status.code(), Some(255), "{kind}: {refused:?}");
        assert!(text(&refused.stderr).contains("no matching host key type"), "{refused:?}");
    }
}

#[test]
fn no_single_setting_makes_another_key_acceptable() {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let known = scene.write("known", &scene.impostor.any_host_line(), 0o644);
    let known = known.display();
    let control = scene.path("c");
    let session = scene.session(&scene.impostor);
    for config in [
        "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n".into(),
        format!("UserKnownHostsFile {known}\n"),
        format!("GlobalKnownHostsFile {known}\nUserKnownHostsFile /dev/null\n"),
        format!("KnownHostsCommand /bin/cat {known}\nUserKnownHostsFile /dev/null\n"),
        format!("UserKnownHostsFile {known}\nHostKeyAlias evil\n"),
        "NoHostAuthenticationForLocalhost yes\n".into(),
        format!(
            "ControlPath {}\nControlMaster auto\nControlPersist 30\nUserKnownHostsFile {known}\n",
            control.display()
        ),
    ] {
        let path = scene.write("config", &config, 0o600);
        let plain = scene.plain(&session, &path);
        assert_eq!(text(&plain.stdout), "impostor", "{config}: no attack: {plain:?}");
        assert_refused(&scene.pinned(&session, &path), &config);
    }
    // The master of the last case still lives: the refusal was not for want of one.
    let control = ["-S", control.to_str().unwrap(), "-O", "exit", "x"];
    assert!(output(Command::new("ssh").args(["-F", "/dev/null"]).args(control)).status.success());
}

#[test]
fn no_single_setting_redirects_the_session() {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let known = scene.write("known", &scene.impostor.any_host_line(), 0o644);
    let session = scene.session(&scene.genuine);
    for line in [
        format!("ProxyCommand bash {}", scene.relay().display()),
        format!("Hostname {}", scene.impostor.address),
    ] {
        let config = format!("UserKnownHostsFile {}\n{line}\n", known.display());
        let path = scene.write("config", &config, 0o600);
        let plain = scene.plain(&session, &path);
        assert_eq!(text(&plain.stdout), "impostor", "{line}: no attack: {plain:?}");
        let pinned = scene.pinned(&session, &path);
        assert_eq!(text(&pinned.stdout), "genuine", "{line}: {pinned:?}");
    }
}

#[test]
fn nothing_runs_on_the_tenants_machine() {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let marker = scene.path("marker");
    let config = format!(
        "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nPermitLocalCommand yes\n\
         LocalCommand touch {}\n",
        marker.display()
    );
    let path = scene.write("config", &config, 0o600);
    let mut session = scene.session(&scene.genuine);
    assert_eq!(text(&scene.plain(&session, &path).stdout), "genuine");
    assert!(marker.exists(), "no attack");
    fs::remove_file(&marker).unwrap();
    assert_eq!(text(&scene.pinned(&session, &path).stdout), "genuine");
    assert!(!marker.exists());

    // A remote command that looks like an option of ssh stays a remote command.
    session.command = vec![format!("-oProxyCommand=touch {}", marker.display()).into()];
    scene.pinned(&session, Path::new("/dev/null"));
    assert!(!marker.exists());
    let known_hosts = KnownHosts::write(&scene.genuine.host_key()).unwrap();
    let mut arguments = ssh::arguments(&session, &known_hosts.path()).unwrap();
    let end = arguments.iter().rposition(|word| word == "--").unwrap();
    arguments.remove(end);
    // `ProxyCommand` is decided already, so the attack takes a switch: -E writes a log.
    *arguments.last_mut().unwrap() = format!("-E{}", marker.display()).into();
    output(Command::new("ssh").args(&arguments));
    assert!(marker.exists(), "without the `--` ssh obeys the command");
}

/// What `ssh` would do with these arguments, but for what is harmless; `None` if it refuses them.
fn decisions(arguments: &[OsString]) -> Option<Vec<String>> {
    // These name what the options beside them switch off.
    let harmless = ["identityfile", "canonicalizefallbacklocal", "localcommand"];
    let shown = output(Command::new("ssh").arg("-G").args(arguments));
    let key = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let lines = text(&shown.stdout).lines().map(str::to_owned).collect::<Vec<_>>();
    let lines = lines.into_iter().filter(|line| !harmless.contains(&&*key(line)));
    shown.status.success().then(|| lines.collect())
}

#[test]
fn a_hostile_configuration_changes_no_decision() {
    if !available() {
        return;
    }
    let scene = Scene::new();
    let hostile = scene.write("config", &scene.hostile_config(), 0o600);
    let known_hosts = KnownHosts::write(&scene.genuine.host_key()).unwrap();
    let session = scene.session(&scene.genuine);
    let arguments = ssh::arguments(&session, &known_hosts.path()).unwrap();
    let none = decisions(&arguments).unwrap();
    let hostile_arguments = with_config(arguments, &hostile);
    assert_eq!(decisions(&hostile_arguments).unwrap(), none);
    // Each option is there because the configuration decides otherwise without it.
    for at in (0..hostile_arguments.len()).filter(|at| hostile_arguments[*at] == "-o") {
        let mut fewer = hostile_arguments.clone();
        let option = fewer.drain(at..at + 2).next_back().unwrap().into_string().unwrap();
        // What only makes older versions accept the others, or adds to what a person's key is.
        if !option.starts_with("IgnoreUnknown=") && !option.starts_with("IdentityFile=") {
            assert_ne!(decisions(&fewer).as_ref(), Some(&none), "{option} decides nothing");
        }
    }
    let session_to_impostor = scene.session(&scene.impostor);
    assert_refused(&scene.pinned(&session_to_impostor, &hostile), "all at once");
    assert_eq!(text(&scene.pinned(&session, &hostile).stdout), "genuine");
}

/// The files that `ssh` reads by itself, replaced by hostile ones in a mount namespace.
#[test]
fn the_configuration_files_of_the_machine_are_not_read() {
    if !available() || !has("unshare", &["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]) {
        return;
    }
    let scene = Scene::new();
    let marker = scene.path("matched");
    let matched = format!("Match exec \"touch {}\"\n", marker.display());
    let known = scene.write("known", &scene.impostor.any_host_line(), 0o644);
    let user = format!(
        "UserKnownHostsFile {}\nProxyCommand bash {}\n{matched}",
        known.display(),
        scene.relay().display()
    );
    scene.write("home/.ssh/config", &user, 0o600);
    let system = format!(
        "StrictHostKeyChecking no\nHostname {}\nPermitLocalCommand yes\nLocalCommand touch {}\n",
        scene.impostor.address,
        scene.path("local").display()
    );
    let system = scene.write("system", &system, 0o644);
    let home = stdout("getent", &["passwd", "0"]);
    let script = format!(
        "mount --bind {} {} && mount --bind {} /etc/ssh/ssh_config && exec ssh \"$@\"",
        scene.path("home").display(),
        home.split(':').nth(5).unwrap(),
        system.display()
    );
    let in_namespace = |arguments: &[OsString]| {
        let mut command = Command::new("unshare");
        output(command.args(["-rm", "sh", "-c", &script, "ssh"]).args(arguments))
    };
    let session = scene.session(&scene.genuine);
    let identity = scene.client.identity().into_os_string();
    let port = session.port.to_string().into();
    let plain = ["-i".into(), identity, "-p".into(), port, session.host.to_string().into()];
    let login = ["-l".into(), stdout("id", &["-un"]).into(), WHO.into()];
    let plain = in_namespace(&[plain.to_vec(), login.to_vec()].concat());
    assert_eq!(text(&plain.stdout), "impostor", "no attack: {plain:?}");
    for marker in [&marker, &scene.path("local")] {
        assert!(marker.exists(), "no attack: {}", marker.display());
        fs::remove_file(marker).unwrap();
    }

    let known_hosts = KnownHosts::write(&scene.genuine.host_key()).unwrap();
    let pinned = in_namespace(&ssh::arguments(&session, &known_hosts.path()).unwrap());
    assert_eq!(text(&pinned.stdout), "genuine", "{pinned:?}");
    let session = scene.session(&scene.impostor);
    let pinned = in_namespace(&ssh::arguments(&session, &known_hosts.path()).unwrap());
    assert_refused(&pinned, "configuration files");
    assert!(!marker.exists() && !scene.path("local").exists());
}
