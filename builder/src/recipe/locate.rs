//! Where in a TOML text an error is: line, column and field, for people who must fix it.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One step from a table or array to what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of an array, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A place in a TOML text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The field, such as `guest.packages[3]`; empty if the text is no TOML at all.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)?;
        if self.field.is_empty() { Ok(()) } else { write!(f, ": {}", self.field) }
    }
}

/// Finds what `error`, made while reading `text`, is about.
#[must_use]
pub fn of_error(text: &str, error: &toml::de::Error) -> Place {
    let span = error.span().unwrap_or(0..0);
    let mut steps = Vec::new();
    if let Ok(root) = DeTable::parse(text) {
        descend_table(root.get_ref(), &span, &mut steps);
    }
    place(text, span.start, &steps)
}

/// Finds the value that `steps` lead to, or the nearest one around it.
#[must_use]
pub fn of_steps(text: &str, steps: &[Step]) -> Place {
    let start = DeTable::parse(text).map_or(0, |root| start_of(root.get_ref(), steps));
    place(text, start, steps)
}

fn start_of(root: &DeTable<'_>, steps: &[Step]) -> usize {
    let mut start = 0;
    let mut table = Some(root);
    let mut value: Option<&Spanned<DeValue<'_>>> = None;
    for step in steps {
        let next = match step {
            Step::Key(key) => table.and_then(|table| table.get(key.as_str())),
            Step::Index(index) => {
                value.and_then(|value| value.get_ref().as_array()).and_then(|a| a.get(*index))
            }
        };
        let Some(found) = next else { break };
        start = found.span().start;
        value = Some(found);
        table = found.get_ref().as_table();
    }
    start
}

fn descend_table(table: &DeTable<'_>, span: &Range<usize>, steps: &mut Vec<Step>) {
    for (key, value) in table {
        let here = holds(&key.span(), span) || holds(&value.span(), span);
        let nested = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        if !here && !nested {
            continue;
        }
        steps.push(Step::Key(key.get_ref().to_string()));
        let depth = steps.len();
        descend_value(value, span, steps);
        if here || steps.len() > depth {
            return;
        }
        steps.pop();
    }
}

fn descend_value(value: &Spanned<DeValue<'_>>, span: &Range<usize>, steps: &mut Vec<Step>) {
    match value.get_ref() {
        DeValue::Table(table) => descend_table(table, span, steps),
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                steps.push(Step::Index(index));
                let depth = steps.len();
                descend_value(element, span, steps);
                if holds(&element.span(), span) || steps.len() > depth {
                    return;
                }
                steps.pop();
            }
        }
        _ => {}
    }
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && inner.start < outer.end
}

fn place(text: &str, offset: usize, steps: &[Step]) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let mut field = String::new();
    for step in steps {
        match step {
            Step::Key(key) if field.is_empty() => field.push_str(key),
            Step::Key(key) => {
                field.push('.');
                field.push_str(key);
            }
            Step::Index(index) => {
                field.push('[');
                field.push_str(&index.to_string());
                field.push(']');
            }
        }
    }
    Place {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "a = 1\n[t]\nlist = [\n  \"x\",\n  \"y\",\n]\n[[u]]\nn = \"p\"\n[[u]]\nn = \"q\"\n";

    #[test]
    fn steps_lead_to_a_line() {
        let at = |steps: &[Step]| of_steps(TEXT, steps).to_string();
        assert_eq!(at(&["a".into()]), "1:5: a");
        assert_eq!(at(&["t".into(), "list".into(), 1.into()]), "5:3: t.list[1]");
        assert_eq!(at(&["u".into(), 1.into(), "n".into()]), "10:5: u[1].n");
        assert_eq!(at(&["t".into(), "gone".into()]), "2:1: t.gone");
    }

    #[test]
    fn errors_lead_to_a_field() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Doc {
            #[expect(dead_code, reason = "only read")]
            a: u32,
            #[expect(dead_code, reason = "only read")]
            t: Table,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[expect(dead_code, reason = "only read")]
            list: Vec<u8>,
        }
        let text = "a = 1\n[t]\nlist = [1,\n 300]\n";
        let error = toml::from_str::<Doc>(text).unwrap_err();
        assert_eq!(of_error(text, &error).to_string(), "4:2: t.list[1]");
        let text = "a = 1\n[t]\nlist = []\nmore = 2\n";
        let error = toml::from_str::<Doc>(text).unwrap_err();
        assert_eq!(of_error(text, &error).to_string(), "4:1: t.more");
        let text = "a = \n";
        let error = toml::from_str::<Doc>(text).unwrap_err();
        assert!(of_error(text, &error).to_string().starts_with("1:"));
    }
}
