//! How a registry says who may log in where: the `WWW-Authenticate` header.

use std::fmt::Write as _;

/// What a registry says about how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge that can be met, of all that `headers` make (RFC 9110, section 11.6.1): one of
/// them may make several. A token, which is good for what is asked alone, comes before a password.
pub(super) fn challenge<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<(String, Vec<(String, String)>)> =
        headers.into_iter().flat_map(challenges).collect();
    let bearer = all.iter().filter(|(scheme, _)| scheme == "bearer").find_map(|(_, all)| {
        let value = |name: &str| {
            all.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
        };
        let (realm, service, scope) = (value("realm")?, value("service"), value("scope"));
        Some(Challenge::Bearer { realm, service, scope })
    });
    let basic = all.iter().any(|(scheme, _)| scheme == "basic");
    bearer.or_else(|| basic.then_some(Challenge::Basic))
}

/// Each challenge of a header: its scheme in lower case, and its parameters.
fn challenges(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut all: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for item in items(text) {
        let (first, rest) = item.split_once(' ').unwrap_or((item, ""));
        let parameter = if first.contains('=') || rest.trim_start().starts_with('=') {
            item
        } else {
            all.push((first.to_ascii_lowercase(), Vec::new()));
            rest
        };
        let Some((_, parameters)) = all.last_mut() else { continue };
        if let Some((name, value)) = parameter.split_once('=') {
            let name = name.trim().to_ascii_lowercase();
            parameters.push((name, value.trim().trim_matches('"').to_owned()));
        }
    }
    all
}

/// What stands between the commas of a header, not counting those in quotes.
fn items(text: &str) -> Vec<&str> {
    let mut quoted = false;
    let split = text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    split.map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// `text` as a value in a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("r.example".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        // Of several, in one header or in more, the one with a token.
        let both = format!(r#"Basic realm="registry, one", {bearer}"#);
        let after = format!(r#"{bearer}, Basic realm="registry""#);
        for headers in [
            &[bearer][..],
            &[&both],
            &[&after],
            &["Negotiate", bearer],
            &["Negotiate YWJj==, NTLM", "Basic realm=\"x\"", bearer],
        ] {
            assert_eq!(challenge(headers.iter().copied()), Some(expected.clone()), "{headers:?}");
        }
        assert_eq!(challenge(["basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(challenge(["Bearer service=\"x\"", "Basic"]), Some(Challenge::Basic));
        for none in [&["Negotiate"][..], &["Bearer service=\"x\""], &["realm=\"x\""], &[""], &[]] {
            assert_eq!(challenge(none.iter().copied()), None, "{none:?}");
        }
    }

    #[test]
    fn values_of_queries_are_encoded() {
        assert_eq!(encoded("a b&c:d"), "a%20b%26c:d");
    }
}
