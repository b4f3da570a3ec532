//! Who is asked for a bucket, as the environment says it, and whether that is safe.
//!
//! Of what the clients know only the settings that are named here are taken: none that runs a
//! program, or that puts well-known credentials or another address in the place of those named.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};

use super::{ObjectSettings, Options, StoreError};
use crate::reference::Service;

/// How long a connection to a machine's metadata service is waited for.
const METADATA_PATIENCE: Duration = Duration::from_secs(1);

/// The settings of Azure's client that are taken. `UseEmulator` is none of them: with it the client
/// would ask an address that nobody named, with a key that everybody knows.
const AZURE: [AzureConfigKey; 10] = [
    AzureConfigKey::AccountName,
    AzureConfigKey::AccessKey,
    AzureConfigKey::SasKey,
    AzureConfigKey::ClientId,
    AzureConfigKey::ClientSecret,
    AzureConfigKey::AuthorityId,
    AzureConfigKey::AuthorityHost,
    AzureConfigKey::FederatedTokenFile,
    AzureConfigKey::SkipSignature,
    AzureConfigKey::Endpoint,
];

/// The settings of S3's client that are taken. None that names a further address, such as that of the
/// credentials of a container, but for the service that gives tokens.
const S3: [AmazonS3ConfigKey; 16] = [
    AmazonS3ConfigKey::AccessKeyId,
    AmazonS3ConfigKey::SecretAccessKey,
    AmazonS3ConfigKey::Token,
    AmazonS3ConfigKey::Region,
    AmazonS3ConfigKey::DefaultRegion,
    AmazonS3ConfigKey::Endpoint,
    AmazonS3ConfigKey::S3Endpoint,
    AmazonS3ConfigKey::StsEndpoint,
    AmazonS3ConfigKey::VirtualHostedStyleRequest,
    AmazonS3ConfigKey::UnsignedPayload,
    AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
    AmazonS3ConfigKey::WebIdentityTokenFile,
    AmazonS3ConfigKey::RoleArn,
    AmazonS3ConfigKey::RoleSessionName,
    AmazonS3ConfigKey::SkipSignature,
    AmazonS3ConfigKey::RequestPayer,
];

/// The client of a bucket that is called `name` in messages. Nothing is asked yet.
pub(super) fn client(
    service: Service,
    bucket: &str,
    name: &str,
    options: &Options,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match service {
        Service::S3 => {
            let builder = s3(&options.objects).with_bucket_name(bucket);
            let endpoints = [
                AmazonS3ConfigKey::S3Endpoint,
                AmazonS3ConfigKey::Endpoint,
                AmazonS3ConfigKey::StsEndpoint,
            ];
            let endpoints = endpoints.iter().filter_map(|key| builder.get_config_value(key));
            let (client, retry) = transport(name, &endpoints.collect::<Vec<_>>(), options)?;
            let connector = Connector::new(&client, options.patience);
            let builder = builder.with_http_connector(connector);
            let built = builder.with_client_options(client).with_retry(retry).build();
            Ok(Arc::new(built.map_err(|error| failed(name, error.to_string()))?))
        }
        Service::Azure => {
            let builder = azure(&options.objects).with_container_name(bucket);
            if builder.get_config_value(&AzureConfigKey::AccountName).is_none() {
                return Err(failed(name, "AZURE_STORAGE_ACCOUNT_NAME is not set".to_owned()));
            }
            // Who gives tokens is sent secrets.
            let endpoints = [AzureConfigKey::Endpoint, AzureConfigKey::AuthorityHost];
            let endpoints = endpoints.iter().filter_map(|key| builder.get_config_value(key));
            let (client, retry) = transport(name, &endpoints.collect::<Vec<_>>(), options)?;
            let connector = Connector::new(&client, options.patience);
            let builder = builder.with_http_connector(connector);
            let built = builder.with_client_options(client).with_retry(retry).build();
            Ok(Arc::new(built.map_err(|error| failed(name, error.to_string()))?))
        }
    }
}

/// An error of opening the store.
pub(super) fn failed(name: &str, reason: String) -> StoreError {
    let (store, what) = (name.to_owned(), "opening it".to_owned());
    StoreError::Transport { store, what, reason, again: false }
}

/// What the environment says, as the client of S3 takes it.
fn s3(settings: &ObjectSettings) -> AmazonS3Builder {
    let known = settings.of("AWS_").filter_map(|(name, value)| {
        let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().ok()?;
        S3.contains(&key).then_some((key, value))
    });
    known.fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value))
}

/// What the environment says, as the client of Azure takes it.
fn azure(settings: &ObjectSettings) -> MicrosoftAzureBuilder {
    let known = settings.of("AZURE_").filter_map(|(name, value)| {
        let key = name.to_ascii_lowercase().parse::<AzureConfigKey>().ok()?;
        AZURE.contains(&key).then_some((key, value))
    });
    known
        .fold(MicrosoftAzureBuilder::new(), |builder, (key, value)| builder.with_config(key, value))
}

/// How the servers at `endpoints` are talked to, if they may be.
fn transport(
    name: &str,
    endpoints: &[String],
    options: &Options,
) -> Result<(ClientOptions, RetryConfig), StoreError> {
    if endpoints.iter().any(|endpoint| is_insecure(endpoint)) && !options.insecure_http {
        return Err(StoreError::Insecure { store: name.to_owned() });
    }
    if !endpoints.iter().all(|endpoint| is_plain(endpoint)) {
        let reason = "the endpoint in the environment is malformed: expected \
                      https://HOST[:PORT][/PATH], without credentials and without a query";
        return Err(failed(name, reason.to_owned()));
    }
    let tls = endpoints.iter().all(|endpoint| is_tls(endpoint));
    let client = ClientOptions::new()
        .with_allow_http(!tls)
        .with_connect_timeout(options.patience)
        .with_read_timeout(options.patience)
        .with_timeout(options.patience * 20);
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    let retry = RetryConfig { backoff, max_retries: 3, retry_timeout: options.patience * 4 };
    Ok((client, retry))
}

/// Makes HTTP clients that follow no redirect: requests carry tokens in addresses, headers and bodies.
#[derive(Debug)]
struct Connector {
    patience: Duration,
    /// How long a connection is waited for, as the options of a store say it.
    connect: Option<String>,
}

impl Connector {
    fn new(options: &ClientOptions, patience: Duration) -> Self {
        let connect = options.get_config_value(&ClientConfigKey::ConnectTimeout);
        Self { patience, connect }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let connect = options.get_config_value(&ClientConfigKey::ConnectTimeout);
        // The client waits less for a metadata service that may not be there.
        let connect = if connect == self.connect { self.patience } else { METADATA_PATIENCE };
        let plain = http.as_deref() == Some("true");
        let client = reqwest::Client::builder()
            .user_agent(concat!("casemate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .https_only(!plain)
            .connect_timeout(connect)
            .read_timeout(self.patience)
            .timeout(self.patience * 20)
            .http1_only();
        // A proxy would read what is said without TLS.
        let client = if plain { client.no_proxy() } else { client };
        let client = client.build();
        let failed =
            |error| object_store::Error::Generic { store: "HTTP", source: Box::new(error) };
        client.map(HttpClient::new).map_err(failed)
    }
}

fn is_tls(endpoint: &str) -> bool {
    endpoint.parse::<ureq::http::Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https"))
}

/// Whether `endpoint` is an address and no more, so that a message may quote it.
fn is_plain(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<ureq::http::Uri>() else { return false };
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    known && !endpoint.contains(['@', '?', '#'])
}

/// Whether bytes for `endpoint` would travel unprotected over a network.
fn is_insecure(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<ureq::http::Uri>() else { return true };
    if is_tls(endpoint) {
        return false;
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter2";
    /// 32 bytes in base64, which is what a key looks like.
    const KEY: &str = "aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMjIyMjI=";

    fn azure_with(variables: &[(&str, &str)], insecure_http: bool) -> Result<String, StoreError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let objects = ObjectSettings::from_environment(variables);
        let options = Options { insecure_http, objects, ..Options::default() };
        client(Service::Azure, "container", "az://container", &options).map(|it| it.to_string())
    }

    #[test]
    fn without_tls_only_this_machine_is_asked() {
        for (endpoint, insecure) in [
            ("https://s3.example", false),
            ("HTTPS://s3.example:9000/path", false),
            ("http://127.0.0.1:9000", false),
            ("http://[::1]:9000", false),
            ("http://localhost", false),
            ("http://s3.example", true),
            ("HTTP://10.0.0.1:9000", true),
            ("http://127.0.0.1.example", true),
            ("http://user@s3.example", true),
            ("s3.example", true),
            ("no address", true),
        ] {
            assert_eq!(is_insecure(endpoint), insecure, "{endpoint}");
            let name = ("AZURE_STORAGE_ACCOUNT_NAME", "me");
            let key = ("AZURE_STORAGE_ACCOUNT_KEY", KEY);
            for setting in ["AZURE_STORAGE_ENDPOINT", "AZURE_AUTHORITY_HOST"] {
                let opened = azure_with(&[name, key, (setting, endpoint)], false);
                let refused = matches!(opened, Err(StoreError::Insecure { .. }));
                assert_eq!(refused, insecure, "{setting} {endpoint}: {opened:?}");
            }
        }
    }

    /// Whoever exchanges or gives credentials is told secrets.
    #[test]
    fn who_gives_s3_tokens_is_held_to_tls_too() {
        let open = |name: &str, value: &str| {
            let set = [(name, value), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/dev/null")];
            let set = set.iter().map(|(name, value)| (name.into(), value.into()));
            let objects = ObjectSettings::from_environment(set);
            let options = Options { objects, ..Options::default() };
            client(Service::S3, "bucket", "s3://bucket", &options)
        };
        for name in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"] {
            let refused = open(name, "http://192.0.2.1").unwrap_err();
            assert!(matches!(refused, StoreError::Insecure { .. }), "{name}: {refused}");
            open(name, "https://192.0.2.1").unwrap();
        }
        // Not taken, so nobody there is asked.
        for name in ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_METADATA_ENDPOINT"] {
            let shown = format!("{:?}", open(name, "http://192.0.2.1").unwrap());
            assert!(!shown.contains("192.0.2.1"), "{shown}");
        }
    }

    /// The emulator's address and key are nobody's choice.
    #[test]
    fn the_emulator_is_not_asked_unless_it_is_named() {
        for name in ["AZURE_STORAGE_USE_EMULATOR", "AZURE_USE_EMULATOR"] {
            let error = azure_with(&[(name, "true")], false).unwrap_err().to_string();
            assert!(error.contains("AZURE_STORAGE_ACCOUNT_NAME is not set"), "{error}");
        }
    }

    #[test]
    fn settings_name_the_account_and_not_the_container() {
        let set = [
            ("AZURE_STORAGE_ACCOUNT_NAME", "me"),
            ("AZURE_STORAGE_ACCOUNT_KEY", KEY),
            ("AZURE_CONTAINER_NAME", "other"),
            ("AWS_ENDPOINT_URL", "http://192.0.2.1"),
        ];
        let opened = azure_with(&set, false).unwrap();
        assert!(opened.contains("me") && opened.contains("container"), "{opened}");
        assert!(!opened.contains("other"), "{opened}");
    }

    #[test]
    fn no_message_names_a_secret() {
        let name = ("AZURE_STORAGE_ACCOUNT_NAME", "me");
        for set in [
            [name, ("AZURE_STORAGE_ACCOUNT_KEY", SECRET)],
            [name, ("AZURE_STORAGE_SAS_TOKEN", SECRET)],
            [name, ("AZURE_STORAGE_ENDPOINT", "http://hunter2@192.0.2.1")],
            [name, ("AZURE_STORAGE_ENDPOINT", "https://me:hunter2@blob.example")],
            [name, ("AZURE_STORAGE_ENDPOINT", "https://blob.example/?sig=hunter2")],
            [name, ("AZURE_STORAGE_ENDPOINT", "hunter2 is no address")],
        ] {
            for insecure_http in [false, true] {
                let error = azure_with(&set, insecure_http).unwrap_err();
                let text = format!("{error} {error:?}");
                assert!(!text.contains(SECRET), "{text}");
            }
        }
    }
}
