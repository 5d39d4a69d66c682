//! Connections: the pool that a service takes its clients from, and the listener for NOTIFY.

use std::str::FromStr as _;
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{DbError, Secret};

/// How long a new connection, or a free one, is waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for one answer to a relay or a consumer. A little more than what the server allows a statement of theirs
/// (10 s), so that this is the bound of a server that has frozen, not of one that is slow.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// How long the network may leave what was sent without a sign that it has arrived.
const UNHEARD_TIMEOUT: Duration = Duration::from_secs(15);

/// Notifications that may wait for their reader. They carry no data that is not in a table: beyond this, older ones
/// say the same.
const NOTIFICATION_BUFFER: usize = 16;

/// Where the database is and how much of it a service may take.
#[derive(clap::Args, Debug, Clone)]
pub struct DatabaseConfig {
    /// PostgreSQL URL of this service's own role; direct or through a session pooler. `sslmode=require` verifies the
    /// server's certificate against the public roots.
    #[arg(
        id = "DATABASE__URL",
        long = "DATABASE__URL",
        env = "DATABASE__URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub url: Secret,

    /// Connections in this process's pool at the most. Beside it one listens, and one runs upkeep once a minute.
    #[arg(long = "DATABASE__MAX_CONNECTIONS", env = "DATABASE__MAX_CONNECTIONS", hide_env_values = true,
          value_name = "CONNECTIONS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=500))]
    pub max_connections: u16,
}

impl DatabaseConfig {
    /// Checks the URL without connecting.
    ///
    /// # Errors
    /// Names the variable and what is wrong with it, never its value.
    pub fn validate(&self) -> Result<(), String> {
        check_url(&self.url).map_err(|error| format!("DATABASE__URL: {error}"))
    }
}

/// Whether a URL can be read, without connecting; the error says what is wrong and never quotes it.
pub(crate) fn check_url(url: &Secret) -> Result<(), String> {
    parse(url).map(drop)
}

fn parse(url: &Secret) -> Result<Config, String> {
    let mut config =
        Config::from_str(url.expose()).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("not a PostgreSQL URL: {source}"),
            None => "not a PostgreSQL URL".to_owned(),
        })?;
    if config.get_hosts().is_empty() {
        return Err("names no host".to_owned());
    }
    config
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(Duration::from_secs(10))
        .tcp_user_timeout(UNHEARD_TIMEOUT);
    Ok(config)
}

/// Makes one call on a connection of the pool, and waits no longer than `limit` for its end: the server may have frozen, or
/// the network may swallow what is said. A connection that was given up, or has failed, is not used again. After an error it
/// is not known what the call did, unless it says so.
///
/// # Errors
/// Those of the call; [`DbError::Unavailable`] if it did not end in time.
pub async fn call<T>(
    pool: &Pool,
    limit: Duration,
    work: impl AsyncFnOnce(&Object) -> Result<T, DbError>,
) -> Result<T, DbError> {
    let client = pool.get().await?;
    let result = timeout(limit, work(&client)).await.unwrap_or_else(|_| {
        discard_idle(pool);
        Err(DbError::Unavailable(format!(
            "no answer within {} ms",
            limit.as_millis()
        )))
    });
    match &result {
        // The next user of the connection would wait for the answer that we have given up.
        Err(DbError::Unavailable(_)) => drop(Object::take(client)),
        // Statements that were prepared before a migration replaced their function; preparing anew mends it.
        Err(DbError::Bug(_) | DbError::Busy(_)) => pool.manager().statement_caches.clear(),
        _ => {}
    }
    result
}

/// Has the pool connect anew: what made one connection fall silent has most likely met the idle ones beside it, and each
/// would cost its next user a time-out.
pub fn discard_idle(pool: &Pool) {
    pool.retain(|_, _| false);
}

fn tls() -> MakeRustlsConnect {
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    MakeRustlsConnect::new(
        rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    )
}

/// A pool of at most `max_connections`, opened as they are needed; `service` is what `pg_stat_activity` shows.
///
/// # Errors
/// [`DbError::Invalid`] if the URL cannot be read. Nothing is connected yet.
pub fn connect(config: &DatabaseConfig, service: &str) -> Result<Pool, DbError> {
    let mut pg = parse(&config.url).map_err(DbError::Invalid)?;
    pg.application_name(service);
    let manager_config = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = if pg.get_ssl_mode() == SslMode::Require {
        Manager::from_config(pg, tls(), manager_config)
    } else {
        Manager::from_config(pg, NoTls, manager_config)
    };
    Pool::builder(manager)
        .max_size(usize::from(config.max_connections))
        .timeouts(Timeouts {
            wait: Some(CONNECT_TIMEOUT),
            create: Some(CONNECT_TIMEOUT),
            recycle: Some(CONNECT_TIMEOUT),
        })
        // The one that was used last is the one whose plans and caches are fresh.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| DbError::Bug(error.to_string()))
}

/// One connection outside the pool, with its driver spawned on the runtime.
///
/// # Errors
/// [`DbError::Invalid`] for a bad URL, [`DbError::Unavailable`] if the database cannot be reached.
pub async fn connect_one(url: &Secret, application: &str) -> Result<Client, DbError> {
    open(url, application, None).await
}

async fn open(
    url: &Secret,
    application: &str,
    notifications: Option<mpsc::Sender<String>>,
) -> Result<Client, DbError> {
    let mut pg = parse(url).map_err(DbError::Invalid)?;
    pg.application_name(application);
    // The crate's own time-out ends with the TCP handshake; a frozen server answers that and nothing more.
    let late = |_| DbError::Unavailable("no answer while connecting".to_owned());
    if pg.get_ssl_mode() == SslMode::Require {
        let (client, connection) = timeout(CONNECT_TIMEOUT, pg.connect(tls()))
            .await
            .map_err(late)??;
        tokio::spawn(drive(connection, notifications));
        Ok(client)
    } else {
        let (client, connection) = timeout(CONNECT_TIMEOUT, pg.connect(NoTls))
            .await
            .map_err(late)??;
        tokio::spawn(drive(connection, notifications));
        Ok(client)
    }
}

async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    notifications: Option<mpsc::Sender<String>>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(Ok(message)) = messages.next().await {
        if let (AsyncMessage::Notification(notification), Some(sender)) = (message, &notifications) {
            // A full buffer holds the same news already; a closed one means that nobody listens any more.
            let _ = sender.try_send(notification.payload().to_owned());
        }
    }
}

/// A connection that listens on one channel.
pub struct Listener {
    client: Client,
    notifications: mpsc::Receiver<String>,
}

impl Listener {
    /// Connects and listens on `channel`. Whatever is committed after this returns is notified.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if the database cannot be reached.
    pub async fn connect(config: &DatabaseConfig, channel: &'static str) -> Result<Self, DbError> {
        let (sender, notifications) = mpsc::channel(NOTIFICATION_BUFFER);
        let client = open(&config.url, channel, Some(sender)).await?;
        client.batch_execute(&format!("listen {channel}")).await?;
        Ok(Self {
            client,
            notifications,
        })
    }

    /// The payload of the next notification, or `None` when the connection is lost.
    pub async fn next(&mut self) -> Option<String> {
        self.notifications.recv().await
    }

    /// Whether the connection still answers.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] if it does not within two seconds.
    pub async fn ping(&self) -> Result<(), DbError> {
        match timeout(CONNECT_TIMEOUT, self.client.simple_query("")).await {
            Ok(answer) => Ok(answer.map(drop)?),
            Err(_) => Err(DbError::Unavailable(
                "no answer to a ping on the listening connection".to_owned(),
            )),
        }
    }
}
