use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A root with a shell and a few programs of this machine, and the libraries they need.
pub(crate) fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for dir in ["usr/bin", "proc", "dev", "tmp", "work"] {
        std::fs::create_dir_all(root.path().join(dir)).unwrap();
    }
    for program in ["sh", "cat", "env", "id", "uname", "ls", "touch", "sleep"] {
        let from = std::fs::canonicalize(format!("/usr/bin/{program}")).unwrap();
        std::fs::copy(&from, root.path().join("usr/bin").join(program)).unwrap();
        let needs = Command::new("ldd").arg(&from).output().unwrap();
        for path in String::from_utf8(needs.stdout).unwrap().split_whitespace() {
            if let Some(inside) = path.strip_prefix('/') {
                let to = root.path().join(inside);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(path, to).unwrap();
            }
        }
    }
    root
}

fn sh(root: &tempfile::TempDir, script: &str) -> Program {
    Program::new(root.path(), "/usr/bin/sh").args(["-c", script])
}

fn output(program: &Program) -> String {
    String::from_utf8(program.run().unwrap()).unwrap()
}

#[test]
fn the_program_sees_a_fixed_world() {
    let root = root();
    let script = "env; id -u; uname -n; umask; pwd; cat /proc/net/dev; echo /proc/[0-9]*; ls /dev; \
                  echo x > /dev/shm/x";
    let seen = output(&sh(&root, script).env("MORE", "1"));
    let lines: Vec<_> = seen.lines().collect();
    for wanted in ["LANG=C", "LC_ALL=C", "TZ=UTC", "HOME=/tmp", "MORE=1", "casemate", "0022"] {
        assert!(lines.contains(&wanted), "{wanted} is not in:\n{seen}");
    }
    assert!(lines.contains(&"0") && lines.contains(&"/work"), "{seen}");
    assert!(!seen.contains("CARGO"), "the caller's environment is seen:\n{seen}");
    let after = seen.lines().skip_while(|l| !l.contains("|bytes")).skip(1);
    let devices: Vec<_> = after.take_while(|l| l.contains(": ")).collect();
    assert!(devices.len() == 1 && devices[0].contains("lo:"), "more than lo is seen:\n{seen}");
    assert!(seen.contains("/proc/1") && !seen.contains("/proc/1 /proc/2 /proc/3"), "{seen}");
    assert!(lines.contains(&"urandom") && !seen.contains("sda"), "{seen}");
}

#[test]
fn inputs_are_read_only_and_outputs_are_not() {
    let root = root();
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, "given").unwrap();
    std::fs::create_dir(&out).unwrap();
    let script = "cat in; cat in > out/copy; (echo x > in) 2>/dev/null && echo WROTE-INPUT; \
                  (echo x > /usr/x) 2>/dev/null && echo WROTE-ROOT; echo y > /tmp/y && echo tmp";
    let program = sh(&root, script).input(&input, "in").output(&out, "out");
    assert_eq!(output(&program), "giventmp\n");
    assert_eq!(std::fs::read_to_string(out.join("copy")).unwrap(), "given");
    let mode = std::fs::metadata(out.join("copy")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert!(!root.path().join("tmp/y").exists());
}

#[test]
fn input_is_fed_and_failure_is_told() {
    let root = root();
    let out = sh(&root, "cat").run_fed(|f| io::Write::write_all(f, &vec![b'x'; 1 << 20])).unwrap();
    assert_eq!(out.len(), 1 << 20);
    let error = sh(&root, "echo out of luck >&2; exit 3").run().unwrap_err().to_string();
    assert!(error.contains("out of luck") && error.contains("exit status: 3"), "{error}");
    let error = sh(&root, "kill -9 $$ ; sleep 1; exit 7").run();
    // A first process cannot kill itself: it goes on and ends as it says.
    assert!(error.unwrap_err().to_string().contains('7'));
    // The program ends without reading: no deadlock, and its failure is what is told.
    let error = sh(&root, "exit 4").run_fed(|f| io::Write::write_all(f, &vec![b'x'; 1 << 20]));
    assert!(error.unwrap_err().to_string().contains("exit status: 4"));
}

/// Looks often, and waits for `looks` of them.
fn patience(looks: u32) -> Patience {
    let look = std::time::Duration::from_millis(100);
    Patience { still: look * looks, full: look * looks.min(3), look }
}

#[test]
fn a_program_that_waits_for_ever_is_ended() {
    let root = root();
    let dir = tempfile::tempdir().unwrap();
    // The second process is below the first, and its input is not read.
    let mut program =
        sh(&root, "echo stuck >&2; sleep 1000 & sleep 1000").output(dir.path(), "out");
    program.patience = patience(5);
    let fed = program.run_fed(|f| io::Write::write_all(f, &vec![b'x'; 4 << 20]));
    let error = fed.unwrap_err();
    assert!(matches!(error, NamespaceError::Still { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("used no processor and wrote nothing") && text.contains("stuck"),
        "{text}"
    );
}

#[test]
fn a_program_that_works_or_writes_is_not_ended() {
    let root = root();
    let dir = tempfile::tempdir().unwrap();
    let works = "i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done; echo done";
    let writes = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.2; echo $i >> out/x; done; echo done";
    for script in [works, writes] {
        let mut program = sh(&root, script).output(dir.path(), "out");
        program.patience = patience(10);
        assert_eq!(output(&program), "done\n");
    }
}

#[test]
fn a_full_disk_is_what_is_told() {
    let root = root();
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        let status = Command::new(args[0]).args(&args[1..]).arg(dir.path()).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
        return eprintln!("skipped: only root can mount a small disk");
    }
    let script = "cat /dev/zero > out/x; sleep 1000";
    let mut program = sh(&root, script).output(dir.path(), "out");
    program.patience = Patience { still: patience(10_000).look * 10_000, ..patience(3) };
    let error = program.run().unwrap_err();
    assert!(mount(&["umount"]), "the small disk stays");
    let text = error.to_string();
    assert!(text.contains("the disk of") && text.contains("CASEMATE_CACHE"), "{text}");
}

#[test]
fn a_failure_that_is_only_said_is_one() {
    let root = root();
    let program = sh(&root, "echo '<W> so so' >&2; echo '<E> no' >&2");
    assert!(program.run().is_ok());
    let error = program.failing_on("<E>").run().unwrap_err().to_string();
    assert!(error.contains("<E> no"), "{error}");
    assert!(sh(&root, "echo '<W> so so' >&2").failing_on("<E>").run().is_ok());
}

#[test]
fn what_cannot_start_is_named() {
    let root = root();
    let error = Program::new(root.path(), "/usr/bin/gone").run().unwrap_err();
    assert!(matches!(error, NamespaceError::Start { .. }), "{error:?}");
    let error = Program::new(&root.path().join("gone"), "/usr/bin/sh").run().unwrap_err();
    let NamespaceError::Setup { step, .. } = error else { panic!("{error:?}") };
    assert_eq!(step, "binding the tool root");
    let error = sh(&root, "true").input(&root.path().join("usr"), "../x").run().unwrap_err();
    assert!(matches!(error, NamespaceError::Argument { .. }), "{error:?}");
}
