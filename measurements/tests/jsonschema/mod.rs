//! Another program that holds JSON to schemas: the Python package `jsonschema`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Debian's Python, which has Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// Reads pairs of a schema and an instance, and says of each whether it fits.
const VALIDATE: &str = "
import json, sys
from jsonschema import Draft202012Validator as Validator
said = []
for schema, instance in json.load(sys.stdin):
    Validator.check_schema(schema)
    said.append(Validator(schema).is_valid(instance))
print(json.dumps(said))
";

/// Whether it is there; says so where it is not.
pub(crate) fn has_validator() -> bool {
    let import = Command::new(PYTHON).args(["-c", "import jsonschema"]).output();
    let has = import.is_ok_and(|output| output.status.success());
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(has || !required.split(',').any(|word| word == "jsonschema"), "no python3-jsonschema");
    if !has {
        eprintln!("skipped: {PYTHON} has no package jsonschema (Debian: python3-jsonschema)");
    }
    has
}

/// Which of the instances fit their schemas.
pub(crate) fn fit<'a>(pairs: impl Iterator<Item = (Value, &'a Value)>) -> Vec<bool> {
    let pairs: Vec<_> = pairs.collect();
    let mut python = Command::new(PYTHON)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(&serde_json::to_vec(&pairs).unwrap()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}
