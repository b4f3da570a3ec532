//! The one place that writes to the terminal: standard output is data, standard error is talk.
//!
//! Colour only on a terminal and never with `NO_COLOR`; everything is readable without it. Data
//! that cannot be written is an error of whatever was asked; talk that cannot is lost.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARN: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// How a piece of text is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Refused or failed.
    Bad,
    /// Worth a look.
    Warn,
}

/// `text` in the colour of its tone.
pub(crate) fn toned(tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Good => GOOD,
        Tone::Bad => BAD,
        Tone::Warn => WARN,
    };
    format!("{style}{text}{style:#}")
}

/// Standard output cannot be written: it is full, or whoever read it is gone.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub(crate) struct OutputError(std::io::Error);

/// Writes data, all of it now: what stays in a buffer could be lost in silence.
fn put(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = anstream::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(OutputError)
}

/// A line of data.
pub(crate) fn line(text: &str) -> Result<(), OutputError> {
    put(format!("{text}\n").as_bytes())
}

/// Data as JSON, one document.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string_pretty(value)?)?)
}

/// Data as JSON, one document on a line.
pub(crate) fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(value)?)?)
}

/// Takes the whole terminal for `text`.
pub(crate) fn screen(text: &str) -> Result<(), OutputError> {
    line(&format!("\u{1b}[H\u{1b}[2J{text}"))
}

/// Raw bytes of data.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(OutputError)
}

/// A line of talk. There is nowhere left to say that standard error is full or closed.
pub(crate) fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A warning.
pub(crate) fn warn(text: &str) {
    say(&format!("{WARN}warning:{WARN:#} {text}"));
}

/// An error with its causes, each once, and a hint where there is one.
pub(crate) fn error(error: &anyhow::Error, hint: Option<&str>) {
    say(&format!("{BAD}error:{BAD:#} {error}"));
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            say(&format!("{DIM}caused by:{DIM:#} {text}"));
            said = text;
        }
    }
    if let Some(hint) = hint {
        say(&format!("{GOOD}hint:{GOOD:#} {hint}"));
    }
}

/// An aligned table without borders; a column whose heading ends in `>` is right-aligned.
pub(crate) fn table<R: IntoIterator<Item = Vec<String>>>(headings: &[&str], rows: R) -> String {
    use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_end_matches('>').to_owned()));
    for row in rows {
        table.add_row(row);
    }
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if heading.ends_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
