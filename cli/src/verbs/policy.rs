//! `policy` and `schema`: what a verifier accepts, and what the formats look like.

use casemate_measurements::appraisal::Line;
use casemate_measurements::appraisal::policy_file::PolicyFile;
use casemate_validator::{policy, release, trust};
use serde::Serialize;

use crate::args::{CheckArgs, Format, InitArgs, SchemaArgs, SchemaOf};
use crate::outcome::Outcome;
use crate::printer;

/// Prints a commented strict policy.
pub(crate) fn init(args: &InitArgs) -> anyhow::Result<Outcome> {
    let release = args.release.as_deref().map(release::read).transpose()?;
    printer::line(PolicyFile::template(release.as_ref()).trim_end())?;
    Ok(Outcome::Done)
}

#[derive(Debug, Serialize)]
struct Checked {
    schema: u32,
    fields: Vec<Line>,
}

/// Reads a policy back.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<Outcome> {
    let policy = policy::read(&args.file, &trust::roots(None)?)?;
    let fields = policy.lines();
    match args.output.format {
        Format::Json => printer::json(&Checked { schema: 1, fields })?,
        Format::Table => {
            let rows = fields.iter().map(|line| {
                let open = if line.open { "open" } else { "" };
                let words = [line.field, line.accepts.as_str(), open, line.source.as_str()];
                words.map(str::to_owned).to_vec()
            });
            printer::line(&printer::table(&["FIELD", "ACCEPTS", "", "FROM"], rows))?;
        }
    }
    Ok(Outcome::Done)
}

/// Prints a JSON schema.
pub(crate) fn schema(args: &SchemaArgs) -> anyhow::Result<Outcome> {
    printer::json(&match args.of {
        SchemaOf::Judged(format) => format.schema(),
        SchemaOf::Released(format) => format.schema(),
    })?;
    Ok(Outcome::Done)
}
