//! One kept HTTP/1.1 connection, as thin as hyper allows: what the sender costs, the services do not get.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

use super::events::Event;

/// Longest wait for an answer: beyond it, a provider has given up too (GitHub after 10 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, made anew when it breaks.
pub(super) struct Wire {
    address: String,
    host: HeaderValue,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Wire {
    /// A connection to the API at `base`; it is made with the first request.
    pub(super) fn new(base: &Url) -> anyhow::Result<Self> {
        anyhow::ensure!(
            base.scheme() == "http",
            "load is sent over plain HTTP, not {}",
            base.scheme()
        );
        let host = base.host_str().context("the URL names no host")?;
        let address = format!("{host}:{}", base.port_or_known_default().unwrap_or(80));
        Ok(Self {
            host: HeaderValue::from_str(&address)?,
            address,
            sender: None,
        })
    }

    /// Sends an event and reads the whole answer.
    pub(super) async fn post(&mut self, path: &str, event: Event) -> anyhow::Result<(StatusCode, Bytes)> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.try_post(path, event)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(anyhow::anyhow!("none within {} s", ANSWER_TIMEOUT.as_secs())));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn try_post(&mut self, path: &str, event: Event) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::post(path).body(Full::new(event.body))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(event.headers);
        let sender = match &mut self.sender {
            Some(sender) if !sender.is_closed() => sender,
            stale => stale.insert(connect(&self.address).await?),
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

async fn connect(address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; whoever waits for an answer is told.
    tokio::spawn(connection);
    Ok(sender)
}
