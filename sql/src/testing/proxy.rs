//! A TCP proxy in front of a server, which a test can cut, stall or shut to break connections at a chosen moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Forwards to one server, until it is told otherwise. Ends with the test's runtime.
pub struct Proxy {
    url: Url,
    state: Arc<State>,
}

struct State {
    server: String,
    stalled: watch::Sender<bool>,
    /// Connections up to this number are silent.
    silent: watch::Sender<usize>,
    shut: watch::Sender<bool>,
    cut: Mutex<CancellationToken>,
    accepted: AtomicUsize,
}

impl Proxy {
    /// Listens in front of the server of `url`; `default_port` is for a URL that names none.
    pub async fn before(url: &str, default_port: u16) -> Self {
        let mut url = Url::parse(url).expect("a URL");
        let server = format!(
            "{}:{}",
            url.host_str().expect("a URL with a host"),
            url.port().unwrap_or(default_port)
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        url.set_host(Some("127.0.0.1")).expect("a URL with a host");
        url.set_port(Some(address.port())).expect("a URL with a host");
        let state = Arc::new(State {
            server,
            stalled: watch::Sender::new(false),
            silent: watch::Sender::new(0),
            shut: watch::Sender::new(false),
            cut: Mutex::default(),
            accepted: AtomicUsize::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { url, state }
    }

    /// The server's URL, by way of this proxy.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Closes every connection; later ones are forwarded again.
    pub fn cut(&self) {
        std::mem::take(&mut *self.state.cut.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
    }

    /// Stops reading from both sides while everything stays open, as a frozen server does; or goes on.
    pub fn stall(&self, stalled: bool) {
        self.state.stalled.send_replace(stalled);
    }

    /// Passes nothing on any more on the connections that there are, and says so to nobody; later ones are forwarded.
    pub fn silence(&self) {
        let old = self.state.silent.send_replace(self.accepted());
        debug_assert!(old <= self.accepted());
    }

    /// Closes every connection and each new one at once, as a dead server's machine does; or goes on.
    pub fn shut(&self, shut: bool) {
        self.state.shut.send_replace(shut);
        if shut {
            self.cut();
        }
    }

    /// Connections made so far.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = state.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let cut = state.cut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if *state.shut.borrow() {
            continue;
        }
        tokio::spawn(forward(client, Arc::clone(&state), cut, number));
    }
}

async fn forward(client: TcpStream, state: Arc<State>, cut: CancellationToken, number: usize) {
    let Ok(server) = TcpStream::connect(&state.server).await else {
        return;
    };
    // As the clients themselves do; a proxy that waits to fill a segment would be what is measured.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = cut.cancelled() => {}
        () = pump(client_read, server_write, &state, number) => {}
        () = pump(server_read, client_write, &state, number) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &State,
    number: usize,
) {
    let (mut stalled, mut silent) = (state.stalled.subscribe(), state.silent.subscribe());
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        if *silent.borrow_and_update() >= number {
            // Both sides stay connected, for as long as the test runs.
            std::future::pending::<()>().await;
        }
        tokio::select! {
            biased;
            changed = silent.changed() => if changed.is_err() { return },
            changed = stalled.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(bytes) if bytes > 0 && to.write_all(&buffer[..bytes]).await.is_ok() => {}
                _ => return,
            }
        }
    }
}
