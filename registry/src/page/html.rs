//! HTML whose every text is escaped: there is no way to put in another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::hash::Sha256Hash;

use super::Module;

/// How pages look. Part of each page, which names its hash.
const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;\
color:#1a1a1a;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0;display:block;overflow-x:auto}\
td,th{border:1px solid #ccc;padding:.25rem .6rem;text-align:left;vertical-align:top}\
td,pre{font-family:ui-monospace,monospace;font-size:.85rem}\
pre{background:#f4f4f4;padding:.75rem;overflow-x:auto}\
.warning{background:#8a1c1c;color:#fff;padding:.75rem;font-weight:bold}\
.good{background:#14532d;color:#fff;padding:.75rem;font-weight:bold}\
@media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#161616}\
pre{background:#222}td,th{border-color:#444}a{color:#9cf}}";

/// What a page verifies in the reader's browser. Part of the pages that have something to verify.
const SCRIPT: &str = include_str!("verify.js");

/// A piece of a page.
#[derive(Debug, Clone, Default)]
pub(super) struct Html {
    text: String,
    /// Whether the page verifies something.
    verifies: bool,
    /// Whether it does so with a module.
    has_module: bool,
}

impl Html {
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '"' => self.text.push_str("&quot;"),
                '\'' => self.text.push_str("&#39;"),
                // What has no place in a document, and what turns the direction of text.
                c if is_unseen(c) => self.text.push('\u{fffd}'),
                c => self.text.push(c),
            }
        }
    }

    /// Begins an element.
    pub(super) fn open(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) {
        self.text.push('<');
        self.text.push_str(tag);
        for (name, value) in attributes {
            self.text.push(' ');
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.text(value);
            self.text.push('"');
        }
        self.text.push('>');
    }

    /// Ends an element.
    pub(super) fn close(&mut self, tag: &'static str) {
        self.text.push_str("</");
        self.text.push_str(tag);
        self.text.push_str(">\n");
    }

    /// An element with a text.
    pub(super) fn element(&mut self, tag: &'static str, text: &str) {
        self.open(tag, &[]);
        self.text(text);
        self.close(tag);
    }

    /// An element of a class with a text.
    pub(super) fn classed(&mut self, tag: &'static str, class: &str, text: &str) {
        self.open(tag, &[("class", class)]);
        self.text(text);
        self.close(tag);
    }

    /// What the script verifies, and where it says what it found.
    pub(super) fn verified_here(&mut self, data: &serde_json::Value, module: Option<&Module>) {
        self.verifies = true;
        self.open("p", &[("id", "verdict"), ("class", "warning")]);
        self.text("Not verified in this browser: it runs no scripts.");
        self.close("p");
        self.open("table", &[("id", "verified")]);
        self.row("th", &["File", "What this browser found"]);
        self.close("table");
        self.open("script", &[("type", "application/json"), ("id", "release")]);
        // Nothing in it can end the element.
        self.text.push_str(&data.to_string().replace('<', "\\u003c"));
        self.close("script");
        if let Some(module) = module {
            self.has_module = true;
            self.open("script", &[("type", "application/wasm+gzip"), ("id", "module")]);
            self.text.push_str(module.base64());
            self.close("script");
        }
    }

    /// The same for what a machine reads.
    pub(super) fn code(&mut self, tag: &'static str, text: &str) {
        self.open(tag, &[]);
        self.element("code", text);
        self.close(tag);
    }

    /// A link to another page of the site.
    pub(super) fn link(&mut self, to: &str, text: &str) {
        self.open("a", &[("href", to)]);
        self.text(text);
        self.close("a");
    }

    /// A row of a table.
    pub(super) fn row(&mut self, tag: &'static str, cells: &[&str]) {
        self.open("tr", &[]);
        for cell in cells {
            self.element(tag, cell);
        }
        self.close("tr");
    }

    /// A row that names a fact.
    pub(super) fn fact(&mut self, name: &str, value: &str) {
        self.open("tr", &[]);
        self.element("th", name);
        self.element("td", value);
        self.close("tr");
    }

    /// What nobody may overlook.
    pub(super) fn warning(&mut self, text: &str) {
        self.open("p", &[("class", "warning")]);
        self.text(text);
        self.close("p");
    }

    /// Lines to type.
    pub(super) fn lines(&mut self, lines: &[String]) {
        self.element("pre", &lines.join("\n"));
    }
}

fn is_unseen(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n') || turns
}

/// The hash that a policy allows a text by.
fn allowed(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256Hash::of(text.as_bytes()).as_bytes()))
}

/// A whole page. Its policy allows its own style and script and nothing else: no image, no form, no
/// other address.
pub(super) fn page(title: &str, body: &Html) -> String {
    let script = match (body.verifies, body.has_module) {
        (false, _) => "'none'".to_owned(),
        (true, false) => allowed(SCRIPT),
        (true, true) => format!("{} 'wasm-unsafe-eval'", allowed(SCRIPT)),
    };
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {script}; base-uri 'none'; form-action 'none'",
        allowed(STYLE)
    );
    let mut html = Html { text: "<!DOCTYPE html>\n".to_owned(), ..Html::default() };
    html.open("html", &[("lang", "en")]);
    html.open("head", &[]);
    html.open("meta", &[("charset", "utf-8")]);
    html.open("meta", &[("http-equiv", "Content-Security-Policy"), ("content", &policy)]);
    html.open("meta", &[("name", "viewport"), ("content", "width=device-width")]);
    html.open("meta", &[("name", "referrer"), ("content", "no-referrer")]);
    html.element("title", title);
    // Texts that are not escaped are constants.
    html.text.push_str("<style>");
    html.text.push_str(STYLE);
    html.text.push_str("</style>\n");
    html.close("head");
    html.open("body", &[]);
    html.text.push_str(&body.text);
    if body.verifies {
        html.text.push_str("<script>");
        html.text.push_str(SCRIPT);
        html.text.push_str("</script>\n");
    }
    html.close("body");
    html.close("html");
    html.text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_escaped() {
        let mut html = Html::default();
        html.open("a", &[("href", "\"><script>")]);
        html.text("<img src=x onerror='alert(1)'>&\u{202e}\u{0}");
        html.close("a");
        let expected = "<a href=\"&quot;&gt;&lt;script&gt;\">&lt;img src=x \
                        onerror=&#39;alert(1)&#39;&gt;&amp;\u{fffd}\u{fffd}</a>\n";
        assert_eq!(html.text, expected);
    }
}
