//! QEMU's option values, written so that no value can become an option: JSON where QEMU takes
//! it, else a list of pairs in which commas are doubled.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value of the form `head,key=value,…`, for the options that QEMU does not read as JSON.
///
/// QEMU ends a value at a comma and reads a doubled comma as one comma of the value. Doubling
/// each makes every text a single value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyVal(String);

impl KeyVal {
    /// Starts with a value without a key, such as a type.
    #[must_use]
    pub fn new(head: &str) -> Self {
        Self(escape(head))
    }

    /// Appends `key=value`. The key is a literal of this program, the value may be anything.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(&value.to_string()));
        self
    }
}

impl fmt::Display for KeyVal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

/// A program's arguments, in order; printed one option a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Appends an option without a value.
    pub fn flag(&mut self, option: &'static str) {
        self.0.push(option.to_owned());
    }

    /// Appends an option and its value.
    pub fn option(&mut self, option: &'static str, value: impl fmt::Display) {
        self.0.push(option.to_owned());
        self.0.push(value.to_string());
    }

    /// The arguments.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Arguments {
    /// One option a line, its value quoted for a POSIX shell where it must be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (index, argument) in self.0.iter().enumerate() {
            let value =
                index > 0 && !argument.starts_with('-') && self.0[index - 1].starts_with('-');
            if !first {
                f.write_str(if value { " " } else { " \\\n  " })?;
            }
            first = false;
            f.write_str(&quote(argument))?;
        }
        Ok(())
    }
}

fn quote(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=+,./:@%".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How QEMU splits: at single commas, a doubled comma being one comma of the value.
    fn split(text: &str) -> Vec<String> {
        let mut parts = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == ',' && chars.next_if_eq(&',').is_none() {
                parts.push(String::new());
            } else if let Some(part) = parts.last_mut() {
                part.push(c);
            }
        }
        parts
    }

    proptest::proptest! {
        #[test]
        fn no_value_becomes_an_option(value in ".*[,=].*", head in "[a-z,]{1,8}") {
            let text = KeyVal::new(&head).with("path", &value).with("server", "off").to_string();
            proptest::prop_assert_eq!(
                split(&text),
                vec![head, format!("path={value}"), "server=off".to_owned()]
            );
        }
    }

    #[test]
    fn printed_arguments_are_what_a_shell_reads_back() {
        let mut arguments = Arguments::default();
        arguments.flag("-nodefaults");
        arguments.option("-append", "quiet it's");
        assert_eq!(arguments.to_string(), "-nodefaults \\\n  -append 'quiet it'\\''s'");
    }
}
