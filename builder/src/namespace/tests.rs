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
