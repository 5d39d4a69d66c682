//! Where the broker is and what is ours on it: the `AMQP__*` settings, checked before anything connects.
//!
//! Owns the URL's meaning and the errors of reaching the broker. The connection itself is in `session.rs`,
//! the names of queues and exchange in `topology.rs`.

use std::fmt;
use std::path::PathBuf;

use amqprs::connection::OpenConnectionArguments;
use amqprs::tls::TlsAdaptor;
use percent_encoding::percent_decode_str;
use sql::Secret;
use url::Url;

/// Seconds between heartbeats; a silent peer is given up after two. Shorter ones cost more than they find:
/// at 1 the client writes hundreds of frames a second.
const HEARTBEAT_SECONDS: u16 = 10;

/// Longest short string of AMQP, in bytes. The client library panics past it.
pub(crate) const SHORT_STRING_BYTES: usize = 255;

/// The broker of one service.
#[derive(clap::Args, Clone, Debug)]
pub struct AmqpConfig {
    /// The broker, `amqp://user:password@host:port/vhost` or `amqps://…`. User, password and vhost are
    /// percent-encoded; without a path the vhost is `/`; `?cacertfile=PATH` names a private CA (PEM)
    #[arg(long = "AMQP__URL", env = "AMQP__URL", hide_env_values = true, value_parser = clap::value_parser!(Secret))]
    pub url: Secret,

    /// First part of the names of our queues and exchange, 1 to 40 of `a-z 0-9 . _ -`
    #[arg(long = "AMQP__PREFIX", env = "AMQP__PREFIX", hide_env_values = true,
        default_value = "relayforge", value_parser = checked_prefix)]
    pub prefix: String,
}

impl AmqpConfig {
    /// What the URL says.
    ///
    /// # Errors
    /// [`AmqpError::Url`], which names the part that is wrong and never shows the password.
    pub fn endpoint(&self) -> Result<Endpoint, AmqpError> {
        Endpoint::parse(self.url.expose())
    }
}

fn checked_prefix(prefix: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=40).contains(&prefix.len()) && prefix.bytes().all(allowed) {
        Ok(prefix.to_owned())
    } else {
        Err("expected 1 to 40 of a-z 0-9 . _ -".to_owned())
    }
}

/// Why there is no broker to work with.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The URL can't be used.
    #[error("AMQP__URL: {0}")]
    Url(String),
    /// Nobody answers there, or not in AMQP.
    #[error("no connection to the broker at {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system or TLS said.
        reason: String,
    },
    /// The connection was cut during login. RabbitMQ says no more than that to a wrong password.
    #[error(
        "the broker at {address} cut the connection at login, \
         which usually means a wrong user or password in AMQP__URL"
    )]
    Login {
        /// Host and port.
        address: String,
    },
    /// The broker answered and said no: unknown vhost, no permission, a limit.
    #[error("the broker refused the connection: {0}")]
    Refused(String),
    /// A queue or exchange of ours can't be declared.
    #[error("{object} can't be declared: {reason}")]
    Topology {
        /// Kind and name.
        object: String,
        /// The broker's text, and what to do about it.
        reason: String,
    },
    /// A queue of ours is gone, and what was in it can't be written anew yet.
    #[error("a work queue is missing, and its messages can't be written anew: {0}")]
    Repair(String),
    /// Connected, but gone before the next step was done.
    #[error("the broker connection was lost: {0}")]
    Lost(String),
    /// The broker takes longer than a step may.
    #[error("the broker did not answer in {0} ms")]
    TimedOut(u128),
}

/// One broker, with credentials. Its Debug shows none.
#[derive(Clone)]
pub struct Endpoint {
    host: String,
    port: u16,
    user: String,
    password: String,
    vhost: String,
    tls: Option<Tls>,
}

#[derive(Clone, Debug)]
struct Tls {
    /// Trusted instead of the public CAs.
    ca_file: Option<PathBuf>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "amqps" } else { "amqp" };
        write!(f, "{scheme}://***@{}/{}", self.address(), self.vhost)
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, AmqpError> {
        let wrong = |reason: &str| AmqpError::Url(reason.to_owned());
        let url = Url::parse(text).map_err(|error| AmqpError::Url(error.to_string()))?;
        let (tls, default_port) = match url.scheme() {
            "amqp" => (false, 5672),
            "amqps" => (true, 5671),
            _ => return Err(wrong("expected amqp://… or amqps://…")),
        };
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| wrong("has no host"))?;
        let ca_file = ca_file(&url, tls)?;
        let user = if url.username().is_empty() {
            "guest"
        } else {
            url.username()
        };
        let path = url.path().strip_prefix('/').unwrap_or_default();
        if path.contains('/') {
            return Err(wrong("a `/` inside the vhost is written %2F"));
        }
        let vhost = decoded("vhost", path)?;
        Ok(Self {
            host: decoded("host", host)?,
            port: url.port().unwrap_or(default_port),
            user: decoded("user", user)?,
            password: decoded("password", url.password().unwrap_or("guest"))?,
            vhost: if vhost.is_empty() { "/".to_owned() } else { vhost },
            tls: tls.then_some(Tls { ca_file }),
        })
    }

    /// Host and port, for messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// What the client library needs to connect under `name`, which the broker shows in its lists.
    pub(crate) fn arguments(&self, name: &str) -> Result<OpenConnectionArguments, AmqpError> {
        let mut arguments = OpenConnectionArguments::new(&self.host, self.port, &self.user, &self.password);
        arguments
            .virtual_host(&self.vhost)
            .connection_name(name)
            .heartbeat(HEARTBEAT_SECONDS);
        if let Some(tls) = &self.tls {
            let server = self.host.trim_matches(['[', ']']).to_owned();
            let adaptor = TlsAdaptor::without_client_auth(tls.ca_file.as_deref(), server)
                .map_err(|error| AmqpError::Url(format!("cacertfile: {error}")))?;
            arguments.tls_adaptor(adaptor);
        }
        Ok(arguments.finish())
    }
}

fn ca_file(url: &Url, tls: bool) -> Result<Option<PathBuf>, AmqpError> {
    let mut file = None;
    for (name, value) in url.query_pairs() {
        if name != "cacertfile" || !tls {
            return Err(AmqpError::Url(format!(
                "unknown parameter `{name}`; cacertfile, with amqps, is the only one"
            )));
        }
        file = Some(PathBuf::from(value.as_ref()));
    }
    Ok(file)
}

fn decoded(part: &str, text: &str) -> Result<String, AmqpError> {
    let decoded = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| AmqpError::Url(format!("the {part} is not UTF-8 once decoded")))?;
    // The login joins user and password with NUL.
    if decoded.len() > SHORT_STRING_BYTES || decoded.contains('\0') {
        return Err(AmqpError::Url(format!(
            "the {part} is longer than 255 bytes or holds a NUL"
        )));
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        amqp: AmqpConfig,
    }

    fn endpoint(url: &str) -> Result<Endpoint, String> {
        Endpoint::parse(url).map_err(|error| error.to_string())
    }

    #[test]
    fn user_password_and_vhost_are_decoded() {
        let parsed = endpoint("amqp://us%40er:p%40ss%3A%2Fw+rd%25@broker.example:5673/%2Fte%20am").unwrap();
        assert_eq!(
            (parsed.user.as_str(), parsed.password.as_str()),
            ("us@er", "p@ss:/w+rd%")
        );
        assert_eq!(
            (parsed.vhost.as_str(), parsed.address().as_str()),
            ("/te am", "broker.example:5673")
        );
    }

    #[test]
    fn what_the_url_leaves_out_has_a_default() {
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
            let parsed = endpoint(url).unwrap();
            assert_eq!((parsed.vhost.as_str(), parsed.port), ("/", 5672), "{url}");
            assert_eq!(
                (parsed.user.as_str(), parsed.password.as_str()),
                ("guest", "guest"),
                "{url}"
            );
        }
        let tls = endpoint("amqps://[::1]/v?cacertfile=/etc/ca%20s.pem").unwrap();
        assert_eq!((tls.address().as_str(), tls.vhost.as_str()), ("[::1]:5671", "v"));
        assert_eq!(tls.tls.unwrap().ca_file.unwrap(), PathBuf::from("/etc/ca s.pem"));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for (url, part) in [
            ("http://u:hunter2@broker", "amqp://"),
            ("broker:5672", "amqp://"),
            ("not a url hunter2", "AMQP__URL"),
            ("amqp://", "host"),
            ("amqp://u:hunter2@broker:99999", "port"),
            ("amqp://u:hunter2@broker/a/b", "%2F"),
            ("amqp://u:hunter2%FF@broker/", "password"),
            ("amqp://u:hunter2%00@broker/", "password"),
            (&format!("amqp://broker/{}", "v".repeat(256)), "vhost"),
            ("amqp://u:hunter2@broker/?heartbeat=1", "heartbeat"),
            ("amqp://u:hunter2@broker/?cacertfile=x", "cacertfile"),
        ] {
            let error = endpoint(url).unwrap_err();
            assert!(
                error.contains(part) && error.contains("AMQP__URL"),
                "{url}: {error}"
            );
            assert!(!error.contains("hunter2"), "{url}: {error}");
        }
    }

    #[test]
    fn no_debug_output_shows_the_password() {
        let cli = Cli::try_parse_from(["test", "--AMQP__URL=amqp://u:hunter2@broker/v"]).unwrap();
        let shown = format!("{:?} {:?}", cli.amqp, cli.amqp.endpoint().unwrap());
        assert!(
            shown.contains("broker:5672") && !shown.contains("hunter2"),
            "{shown}"
        );
    }

    #[test]
    fn a_prefix_outside_its_alphabet_is_an_error_that_names_the_variable() {
        for prefix in ["", "Upper", "sp ace", "ü", &"p".repeat(41)] {
            let flag = format!("--AMQP__PREFIX={prefix}");
            let error = Cli::try_parse_from(["test", "--AMQP__URL=amqp://broker", &flag]).unwrap_err();
            assert!(error.to_string().contains("AMQP__PREFIX"), "{prefix}: {error}");
        }
    }
}
