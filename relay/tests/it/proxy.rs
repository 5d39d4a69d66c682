//! A TCP proxy in front of the broker that can be cut or stalled, to break connections at a chosen moment.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Forwards to one upstream, until it is told otherwise.
pub(crate) struct Proxy {
    url: String,
    state: Arc<State>,
}

struct State {
    stalled: watch::Sender<bool>,
    cut: Mutex<CancellationToken>,
    /// Connections so far.
    accepted: AtomicUsize,
}

impl Proxy {
    /// Listens in front of the broker of `amqp_url`.
    pub(crate) async fn in_front_of(amqp_url: &str) -> Self {
        let mut url = Url::parse(amqp_url).unwrap();
        let upstream = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5672));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: SocketAddr = listener.local_addr().unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(addr.port())).unwrap();
        let (stalled, cut) = (watch::Sender::new(false), Mutex::new(CancellationToken::new()));
        let state = Arc::new(State {
            stalled,
            cut,
            accepted: AtomicUsize::new(0),
        });
        tokio::spawn(accept(listener, upstream, state.clone()));
        Self {
            url: url.into(),
            state,
        }
    }

    /// The broker's URL by way of this proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Closes every connection; later ones are forwarded again.
    pub(crate) fn cut(&self) {
        let old = std::mem::take(&mut *self.state.cut.lock().unwrap());
        old.cancel();
    }

    /// Stops reading from both sides while everything stays open, or goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.stalled.send_replace(stalled);
    }

    /// Connections made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, upstream: String, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        state.accepted.fetch_add(1, Ordering::SeqCst);
        let (upstream, state) = (upstream.clone(), state.clone());
        let cut = state.cut.lock().unwrap().clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(&upstream).await else {
                return;
            };
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            let stalled = || state.stalled.subscribe();
            tokio::select! {
                () = cut.cancelled() => {}
                () = pump(client_read, server_write, stalled()) => {}
                () = pump(server_read, client_write, stalled()) => {}
            }
        });
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            changed = stalled.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(bytes) if bytes > 0 && to.write_all(&buffer[..bytes]).await.is_ok() => {}
                _ => return,
            }
        }
    }
}
