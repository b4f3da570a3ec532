//! Who asks a registry: what `docker login` or `oras login` wrote into docker's `config.json`, or
//! the credential helper that it names.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Most bytes of a configuration, and of what a helper says.
const MAX_LEN: u64 = 1024 * 1024;
/// What stands before the name of a helper's program.
const HELPER: &str = "docker-credential-";

/// Why nobody knows who asks. No secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The configuration cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is malformed.
    #[error("{} is no configuration of docker's: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong: where, never what stands there.
        reason: String,
    },
    /// A helper failed.
    #[error("the credential helper {program} did not answer for {registry}: {reason}")]
    Helper {
        /// Its program.
        program: String,
        /// The registry asked about.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// An identity token is there, which is not supported.
    #[error(
        "{} has an identity token for {registry}, which is not supported: log in with a user name \
         and a password or access token",
        path.display()
    )]
    IdentityToken {
        /// The file.
        path: PathBuf,
        /// The registry.
        registry: String,
    },
}

/// A user's name and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl Login {
    /// The value of the header that says so.
    pub(super) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    config: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(rename = "auth")]
    pair: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Credentials {
    /// Looks where docker does: `$DOCKER_CONFIG/config.json`, else `$HOME/.docker/config.json`;
    /// `variable` looks up an environment variable.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        Self { config: dir.map(|dir| dir.join("config.json")) }
    }

    /// Who asks `registry`, a host with its port; `None` for anybody.
    pub(super) fn login(&self, registry: &str) -> Result<Option<Login>, CredentialError> {
        let Some(path) = &self.config else { return Ok(None) };
        let mut text = Vec::new();
        match File::open(path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CredentialError::Read { path: path.clone(), source }),
        }
        let malformed = |reason: String| CredentialError::Malformed { path: path.clone(), reason };
        // The parser's words may quote a secret; where it stopped says enough.
        let config: Config = serde_json::from_slice(&text).map_err(|error| {
            malformed(format!("line {} column {}", error.line(), error.column()))
        })?;
        if let Some(helper) = config.cred_helpers.get(registry).or(config.creds_store.as_ref())
            && let Some(login) = ask_helper(helper, registry)?
        {
            return Ok(Some(login));
        }
        let named = |key: &String| {
            let bare = key.trim_start_matches("https://").trim_start_matches("http://");
            bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2") == registry
        };
        let Some((_, auth)) = config.auths.into_iter().find(|(key, _)| named(key)) else {
            return Ok(None);
        };
        if auth.identitytoken.is_some_and(|token| !token.is_empty()) {
            let registry = registry.to_owned();
            return Err(CredentialError::IdentityToken { path: path.clone(), registry });
        }
        if let (Some(user), Some(password)) = (auth.username, auth.password) {
            return Ok(Some(Login { user, password }));
        }
        let Some(pair) = auth.pair.filter(|pair| !pair.is_empty()) else { return Ok(None) };
        let pair =
            STANDARD.decode(pair.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = pair.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.ok_or_else(|| {
            malformed(format!("auths of {registry}: expected user:password in base64"))
        })?;
        Ok(Some(Login { user: user.to_owned(), password: password.to_owned() }))
    }
}

/// Asks a helper's program, which must be found on the `PATH`.
fn ask_helper(name: &str, registry: &str) -> Result<Option<Login>, CredentialError> {
    let program = format!("{HELPER}{name}");
    let fail = |reason: String| CredentialError::Helper {
        program: program.clone(),
        registry: registry.to_owned(),
        reason,
    };
    if name.contains('/') || name.is_empty() {
        return Err(fail("its name is malformed".to_owned()));
    }
    let ask = || -> io::Result<(bool, Vec<u8>)> {
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(registry.as_bytes())?;
        }
        let mut said = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(MAX_LEN).read_to_end(&mut said)?;
        }
        Ok((child.wait()?.success(), said))
    };
    match ask().map_err(|error| fail(error.to_string()))? {
        (true, said) => {
            let helped: Helped = serde_json::from_slice(&said)
                .map_err(|_| fail("it said something else than a name and a secret".to_owned()))?;
            if helped.username == "<token>" {
                return Err(fail("it has an identity token, which is not supported".to_owned()));
            }
            Ok(Some(Login { user: helped.username, password: helped.secret }))
        }
        // That is how helpers say that they know nobody.
        (false, said) if said.starts_with(b"credentials not found") => Ok(None),
        (false, _) => Err(fail("it failed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> (tempfile::TempDir, Credentials) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let path = dir.path().as_os_str().to_owned();
        let found =
            Credentials::from_environment(|name| (name == "DOCKER_CONFIG").then(|| path.clone()));
        (dir, found)
    }

    #[test]
    fn logins_are_found_by_registry() {
        let auth = STANDARD.encode("me:a:b");
        let text = format!(
            r#"{{"auths":{{"h:5000":{{"auth":"{auth}"}},"https://i/v2/":{{"auth":"{auth}"}},
            "j":{{"identitytoken":"hunter2"}},"k":{{"auth":"hunter2"}},"l":{{}}}}}}"#
        );
        let (_dir, found) = with(&text);
        let login = Login { user: "me".into(), password: "a:b".into() };
        assert_eq!(found.login("h:5000").unwrap(), Some(login.clone()));
        assert_eq!(found.login("i").unwrap(), Some(login.clone()));
        assert_eq!(found.login("h").unwrap(), None);
        assert_eq!(found.login("l").unwrap(), None);
        assert!(!format!("{login:?}").contains("a:b"));
        for registry in ["j", "k"] {
            let error = found.login(registry).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(Credentials::default().login("h").unwrap(), None);
    }

    #[test]
    fn a_malformed_configuration_is_named_but_not_quoted() {
        let (_dir, found) = with(r#"{"auths": {"h": {"auth": "hunter2", "auth": "hunter2"#);
        let error = found.login("h").unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let (_dir, found) = with(r#"{"credHelpers": {"h": "no-such-casemate"}}"#);
        let error = found.login("h").unwrap_err().to_string();
        assert!(error.contains("docker-credential-no-such-casemate"), "{error}");
        assert_eq!(found.login("i").unwrap(), None);
    }
}
