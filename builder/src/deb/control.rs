//! Paragraphs of fields, as Debian's control, Packages and Release files have them.

/// One paragraph of `Name: value` lines; lines that start with a blank continue a value.
#[derive(Debug, Clone, Copy)]
pub struct Paragraph<'a>(&'a str);

impl<'a> Paragraph<'a> {
    /// Takes `text` as a single paragraph.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The whole text.
    #[must_use]
    pub const fn text(self) -> &'a str {
        self.0
    }

    /// The value of the first field `name` (ASCII case does not count), without the blanks
    /// around it; continuation lines stay as they are.
    #[must_use]
    pub fn field(self, name: &str) -> Option<&'a str> {
        self.fields().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All fields in order.
    pub fn fields(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                if rest.is_empty() {
                    return None;
                }
                let mut end = line_end(rest, 0);
                while end < rest.len() && matches!(rest.as_bytes()[end], b' ' | b'\t') {
                    end = line_end(rest, end);
                }
                let (field, after) = rest.split_at(end);
                rest = after;
                if let Some((name, value)) = field.split_once(':')
                    && !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
                {
                    return Some((name, value.trim()));
                }
            }
        })
    }
}

/// Where the line that holds `from` ends, its line feed included.
fn line_end(text: &str, from: usize) -> usize {
    text[from..].find('\n').map_or(text.len(), |at| from + at + 1)
}

/// The paragraphs of `text`, which empty lines part.
pub fn paragraphs(text: &str) -> impl Iterator<Item = Paragraph<'_>> {
    text.split("\n\n")
        .map(|part| part.trim_matches('\n'))
        .filter(|part| !part.is_empty())
        .map(Paragraph)
}

/// What is known of a package from its control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    text: String,
}

impl Control {
    /// Takes the text of a control file.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A field, such as `Maintainer`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        Paragraph(&self.text).field(name)
    }

    /// The binary package's name.
    #[must_use]
    pub fn package(&self) -> &str {
        self.field("Package").unwrap_or_default()
    }

    /// The binary package's version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.field("Version").unwrap_or_default()
    }

    /// The architecture.
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.field("Architecture").unwrap_or_default()
    }

    /// The source package: its name and version, which are the binary's unless it says so.
    #[must_use]
    pub fn source(&self) -> (&str, &str) {
        let source = self.field("Source").unwrap_or_else(|| self.package());
        match source.split_once('(') {
            Some((name, version)) => (name.trim(), version.trim_end_matches(')').trim()),
            None => (source.trim(), self.version()),
        }
    }

    /// Who maintains it.
    #[must_use]
    pub fn maintainer(&self) -> &str {
        self.field("Maintainer").unwrap_or_default()
    }

    /// What it depends on: `Pre-Depends` and `Depends`, each clause as written.
    pub fn depends(&self) -> impl Iterator<Item = &str> {
        ["Pre-Depends", "Depends"]
            .into_iter()
            .filter_map(|name| self.field(name))
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|clause| !clause.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: grep\nSource: grep-src (3.11-4)\nVersion: 3.11-4+b1\n\
                        Pre-Depends: libc6 (>= 2.38),\n libpcre2-8-0 (>= 10.32)\nDepends: x | y\n\
                        Description: find lines\n long: text\n .\n more\nMaintainer: A <a@b>\n";

    #[test]
    fn values_may_go_on_over_lines() {
        let control = Control::new(TEXT.to_owned());
        assert_eq!(control.package(), "grep");
        assert_eq!(control.source(), ("grep-src", "3.11-4"));
        assert_eq!(control.maintainer(), "A <a@b>");
        assert_eq!(control.field("long"), None);
        let depends: Vec<_> = control.depends().collect();
        assert_eq!(depends, ["libc6 (>= 2.38)", "libpcre2-8-0 (>= 10.32)", "x | y"]);
        let own = Control::new("Package: a\nVersion: 1\n".to_owned());
        assert_eq!(own.source(), ("a", "1"));
    }

    #[test]
    fn paragraphs_are_parted_by_empty_lines() {
        let text = "\nA: 1\n\nA: 2\nB: x\n y\n\n\n\nA: 3";
        let all: Vec<_> = paragraphs(text).map(|p| p.field("a").unwrap()).collect();
        assert_eq!(all, ["1", "2", "3"]);
        let lines: Vec<_> = paragraphs("no field\n# note: x\nA: 1\n").collect();
        assert_eq!(lines[0].fields().collect::<Vec<_>>(), [("A", "1")]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}") {
            for paragraph in paragraphs(&text) {
                let _ = paragraph.fields().count();
            }
            let control = Control::new(text);
            let _ = (control.source().0.len(), control.depends().count());
        }
    }
}
