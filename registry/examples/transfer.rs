//! Pushes the files of any directory to a store, or pulls them, and prints what moved:
//! `transfer push DIR REF` and `transfer pull REF DIR`. For measurements: a release has a manifest,
//! which `casemate release publish` wants to see.
#![expect(clippy::print_stdout, reason = "an example talks")]

use std::collections::BTreeMap;
use std::path::Path;

use casemate_registry::artifact::descriptor::Kind;
use casemate_registry::artifact::local::LocalChunks;
use casemate_registry::artifact::publish::{PublishOptions, publish};
use casemate_registry::artifact::pull::{PullOptions, pull, resolve};
use casemate_registry::artifact::source::{Source, SourceFile};
use casemate_registry::reference::Reference;
use casemate_registry::store::{Options, open};

type Failure = Box<dyn std::error::Error>;

fn source(dir: &Path) -> Result<Source, Failure> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file = SourceFile { file: entry.path(), expected: None };
        files.insert(entry.file_name().to_string_lossy().into_owned(), file);
    }
    Ok(Source {
        kind: Kind::Release,
        name: "transfer".to_owned(),
        version: "1".to_owned(),
        platform: None,
        files,
        signatures: BTreeMap::new(),
        left_out: Vec::new(),
    })
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, from, to] = &arguments[..] else {
        return Err("usage: transfer push DIR REF | transfer pull REF DIR".into());
    };
    let options = Options::default();
    if what == "push" {
        let to: Reference = to.parse()?;
        let store = open(&to.place, &options)?;
        let (source, options) = (source(Path::new(from))?, PublishOptions::default());
        let done = publish(&source, store.as_ref(), to.selector.tag(), &options, &|_| ())?;
        println!("{{\"moved\": {}, \"had\": {}}}", done.sent, done.had);
    } else {
        let (from, to): (Reference, _) = (from.parse()?, Path::new(to));
        let store = open(&from.place, &options)?;
        let found = resolve(store.as_ref(), &from.selector, Kind::Release)?;
        let mut local = LocalChunks::default();
        for name in found.descriptor.files().keys() {
            local.add_file(&to.join(name));
        }
        let options = PullOptions::default();
        let done = pull(store.as_ref(), &found, to, &local, &options, &|_| ())?;
        println!("{{\"moved\": {}, \"had\": {}}}", done.fetched, done.reused);
    }
    Ok(())
}
