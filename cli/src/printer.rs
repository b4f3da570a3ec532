//! The one place that writes to the terminal: standard output is data, standard error is talk.
//!
//! Colour only on a terminal and never with `NO_COLOR`; everything is readable without it.

use anstream::{eprintln, println};
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

/// A line of data.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Data as JSON, one document.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), serde_json::Error> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Data as JSON, one document on a line. A reader that went away ends the program elsewhere.
pub(crate) fn json_line<T: Serialize>(value: &T) {
    println!("{}", serde_json::to_string(value).unwrap_or_default());
}

/// Takes the whole terminal for `text`.
pub(crate) fn screen(text: &str) {
    println!("\u{1b}[H\u{1b}[2J{text}");
}

/// Raw bytes of data.
pub(crate) fn raw(bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(bytes)
}

/// A line of talk.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// A warning.
pub(crate) fn warn(text: &str) {
    eprintln!("{WARN}warning:{WARN:#} {text}");
}

/// An error with its causes, each once, and a hint where there is one.
pub(crate) fn error(error: &anyhow::Error, hint: Option<&str>) {
    eprintln!("{BAD}error:{BAD:#} {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            eprintln!("{DIM}caused by:{DIM:#} {text}");
            said = text;
        }
    }
    if let Some(hint) = hint {
        eprintln!("{GOOD}hint:{GOOD:#} {hint}");
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
