//! A proxy between one service and one server that reads along, and stops a connection at a chosen message.
//!
//! A trap is set for one moment: the message that brings it is held, and all that comes after it on that side, until
//! the test releases it or the connection ends. A process that is killed meanwhile has died in exactly that gap. What
//! messages mean is in `protocol.rs`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::protocol::{Conversation, Protocol, Says, Side};

/// Bytes asked for in one read; far more than most messages have.
const READ_BYTES: usize = 64 * 1024;

/// Bytes kept of a connection that is held. A process that has been stopped sends no more than its socket takes.
const HELD_BYTES: usize = 8 * 1024 * 1024;

/// A kind of message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The client asks for it, and the server has not heard that.
    Asked(Protocol, &'static [&'static str]),
    /// The server has done it, and the client has not heard that.
    Done(Protocol, &'static [&'static str]),
}

/// The trap that all wires of a test look at; there is one at a time.
#[derive(Debug, Default)]
pub(crate) struct Trap(Mutex<Option<Set>>);

#[derive(Debug)]
struct Set {
    /// Instances of this service, or the one of which an instance has passed `first`.
    victim: String,
    /// What has to pass before.
    first: Option<Moment>,
    moment: Moment,
    /// Messages of the moment that pass before one is held.
    spared: usize,
    sprung: oneshot::Sender<Sprung>,
}

/// A connection that is held.
#[derive(Debug)]
pub(crate) struct Sprung {
    /// The instance whose connection it is.
    pub(crate) instance: &'static str,
    /// Sends on what is held, when it is cancelled.
    pub(crate) release: CancellationToken,
}

enum Judgement {
    Pass,
    Withhold,
    Hold(CancellationToken),
}

impl Trap {
    /// Sets the trap for whichever instance of `service` comes first to `moment`, or, where there is one, to `first`
    /// and then to `moment`; lets `spared` of them pass. Replaces a trap that is still set.
    pub(crate) fn set(
        &self,
        service: &str,
        first: Option<Moment>,
        moment: Moment,
        spared: usize,
    ) -> oneshot::Receiver<Sprung> {
        let (sprung, told) = oneshot::channel();
        *self.lock() = Some(Set {
            victim: service.to_owned(),
            first,
            moment,
            spared,
            sprung,
        });
        told
    }

    fn lock(&self) -> MutexGuard<'_, Option<Set>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, instance: &'static str, protocol: Protocol, says: &Says) -> Judgement {
        let mut trap = self.lock();
        let Some(set) = trap.as_mut().filter(|set| instance.starts_with(&set.victim)) else {
            return Judgement::Pass;
        };
        if let Some(first) = set.first {
            if first.is_it(protocol, says) {
                set.first = None;
                instance.clone_into(&mut set.victim);
            }
            return Judgement::Pass;
        }
        // The answer is withheld from its first byte, so that nothing of it is known when it is whole.
        if let (Says::Answering(asked), 0) = (says, set.spared)
            && set.moment.is_it(protocol, &Says::Answered(asked.clone()))
        {
            return Judgement::Withhold;
        }
        if !set.moment.is_it(protocol, says) {
            return Judgement::Pass;
        }
        if set.spared > 0 {
            set.spared -= 1;
            return Judgement::Pass;
        }
        let release = CancellationToken::new();
        let sprung = Sprung {
            instance,
            release: release.clone(),
        };
        match trap.take().map(|set| set.sprung.send(sprung)) {
            Some(Ok(())) => Judgement::Hold(release),
            // Nobody waits for it any more.
            _ => Judgement::Pass,
        }
    }
}

impl Moment {
    fn is_it(self, protocol: Protocol, says: &Says) -> bool {
        let (spoken, words, text) = match (self, says) {
            (Self::Asked(spoken, words), Says::Asks(text))
            | (Self::Done(spoken, words), Says::Answered(text)) => (spoken, words, text),
            _ => return false,
        };
        spoken == protocol && words.iter().all(|word| text.contains(word))
    }
}

/// Forwards between an instance of a service and a server. Ends with the test's runtime.
#[derive(Debug)]
struct Wire {
    instance: &'static str,
    protocol: Protocol,
    server: String,
    trap: Arc<Trap>,
}

/// Listens in front of the server of `url`; returns the URL that leads there by way of this wire.
pub(crate) async fn wire(trap: &Arc<Trap>, instance: &'static str, protocol: Protocol, url: &str) -> String {
    let mut url = Url::parse(url).unwrap();
    let default_port = match protocol {
        Protocol::Postgres => 5432,
        Protocol::Amqp => 5672,
    };
    let server = format!(
        "{}:{}",
        url.host_str().unwrap(),
        url.port().unwrap_or(default_port)
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    let wire = Arc::new(Wire {
        instance,
        protocol,
        server,
        trap: Arc::clone(trap),
    });
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&wire).forward(client));
        }
    });
    url.into()
}

impl Wire {
    async fn forward(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.server).await else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let conversation = Conversation::new(self.protocol);
        // Whichever side ends takes the other with it, and what is held.
        tokio::select! {
            _ = self.pump(Side::Client, &conversation, client_read, server_write) => {}
            _ = self.pump(Side::Server, &conversation, server_read, client_write) => {}
        }
    }

    /// Sends on whole messages until the connection ends.
    async fn pump(
        &self,
        side: Side,
        conversation: &Conversation,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(READ_BYTES);
        // Of the buffer: what has been read of it, and what of that may go on.
        let (mut read, mut free) = (0, 0);
        loop {
            buffer.reserve(READ_BYTES);
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            while let Some((length, says)) = conversation.read(side, &buffer[read..]) {
                match self.trap.judge(self.instance, self.protocol, &says) {
                    Judgement::Pass => free = read + length,
                    Judgement::Withhold => {}
                    Judgement::Hold(release) => {
                        to.write_all(&buffer[..free]).await?;
                        buffer.drain(..free);
                        read -= free;
                        hold(&mut from, &mut buffer, release).await?;
                        free = read + length;
                    }
                }
                read += length;
            }
            to.write_all(&buffer[..free]).await?;
            buffer.drain(..free);
            read -= free;
            free = 0;
        }
    }
}

/// Keeps what comes until it is released. An end of the connection ends it too.
async fn hold(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    release: CancellationToken,
) -> std::io::Result<()> {
    loop {
        let may_grow = buffer.len() < HELD_BYTES;
        tokio::select! {
            () = release.cancelled() => return Ok(()),
            read = from.read_buf(buffer), if may_grow => if read? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
