//! One kept HTTP/1.1 connection with one request at a time, written by hand: what the sender costs, the services do not get.
//!
//! A request is one write and an answer mostly one read, in memory that is used again and again. `load/answer.rs` says
//! where an answer ends, `load/deadline.rs` how long one is waited for.

use std::future::poll_fn;
use std::io::{ErrorKind, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use url::Url;

use super::answer::Answer;
use super::deadline::Deadline;
use super::events::Event;

/// Longest wait for an answer: beyond it, a provider has given up too (GitHub after 10 s).
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for an answer at first; the API's are shorter. Small, as those of all connections compete for the processor's cache.
const ANSWER_BYTES: usize = 1 << 10;

/// Most bytes of an answer.
const MOST_ANSWER_BYTES: usize = 16 << 10;

/// A connection, made anew when it breaks.
pub(super) struct Wire {
    address: String,
    /// None before the first request, and after whatever leaves it in doubt.
    stream: Option<TcpStream>,
    request: Vec<u8>,
    /// As long as there is room in it.
    answer: Vec<u8>,
    timeout: Duration,
    deadline: Deadline,
}

impl Wire {
    /// A connection to the API at `base`; it is made with the first request. Needs a runtime.
    pub(super) fn new(base: &Url, timeout: Duration) -> anyhow::Result<Self> {
        anyhow::ensure!(
            base.scheme() == "http",
            "load is sent over plain HTTP, not {}",
            base.scheme()
        );
        let host = base.host_str().context("the URL names no host")?;
        Ok(Self {
            address: format!("{host}:{}", base.port_or_known_default().unwrap_or(80)),
            stream: None,
            request: Vec::new(),
            answer: vec![0; ANSWER_BYTES],
            timeout,
            deadline: Deadline::passed(),
        })
    }

    /// Writes the request that [`Self::exchange`] sends.
    pub(super) fn write(&mut self, path: &str, event: &Event) -> std::io::Result<()> {
        let request = &mut self.request;
        request.clear();
        for part in ["POST ", path, " HTTP/1.1\r\nhost: ", &self.address] {
            request.extend_from_slice(part.as_bytes());
        }
        let length = event.body.len();
        write!(
            request,
            "\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
        )?;
        request.extend_from_slice(&event.headers);
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(&event.body);
        Ok(())
    }

    /// Sends the request and reads the whole answer: its status and its body.
    pub(super) async fn exchange(&mut self) -> anyhow::Result<(u16, &[u8])> {
        self.deadline.move_to(self.timeout);
        // Taken, and put back when all went well.
        let mut stream = match self.stream.take() {
            Some(stream) if is_usable(&stream)? => stream,
            _ => self.connect().await?,
        };
        let mut exchange = Exchange {
            stream: Pin::new(&mut stream),
            unsent: &self.request,
            answer: &mut self.answer,
            read: 0,
        };
        let timeout = self.timeout;
        let answer = poll_fn(|context| match exchange.poll(context) {
            Poll::Pending => {
                let passed = self.deadline.poll_passed(context);
                passed.map(|()| Err(too_late(timeout)))
            }
            done => done,
        })
        .await?;
        if !answer.is_last {
            self.stream = Some(stream);
        }
        Ok((answer.status, &self.answer[answer.body]))
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let connecting = timeout_at(self.deadline.at().into(), TcpStream::connect(&self.address));
        let stream = connecting.await.map_err(|_| too_late(self.timeout))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn too_late(timeout: Duration) -> anyhow::Error {
    anyhow::anyhow!("none within {} s", timeout.as_secs_f64())
}

/// Whether a kept connection is still open. Costs no system call as long as nothing has come.
fn is_usable(stream: &TcpStream) -> anyhow::Result<bool> {
    match stream.try_read(&mut [0]) {
        Ok(0) => Ok(false),
        Ok(_) => anyhow::bail!("the connection has said what nobody asked for"),
        Err(error) => Ok(error.kind() == ErrorKind::WouldBlock),
    }
}

/// A request on its way out, and its answer on its way in.
struct Exchange<'a> {
    stream: Pin<&'a mut TcpStream>,
    unsent: &'a [u8],
    answer: &'a mut Vec<u8>,
    read: usize,
}

impl Exchange<'_> {
    /// The answer, once it is whole: also before the request is, as a body that is too large is refused by its head.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<anyhow::Result<Answer>> {
        // Where nothing can be sent any more, what the server said before it closed the connection is what counts.
        let is_sent = matches!(self.poll_send(context), Poll::Ready(Ok(())));
        let mut answer = ready!(self.poll_receive(context))?;
        answer.is_last |= !is_sent;
        Poll::Ready(Ok(answer))
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.unsent.is_empty() {
            let bytes = ready!(self.stream.as_mut().poll_write(context, self.unsent))?;
            self.unsent = &self.unsent[bytes..];
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<anyhow::Result<Answer>> {
        loop {
            if self.read == self.answer.len() {
                if self.read == MOST_ANSWER_BYTES {
                    return Poll::Ready(Err(anyhow::anyhow!("more than {MOST_ANSWER_BYTES} bytes")));
                }
                self.answer.resize(self.read * 2, 0);
            }
            let mut room = ReadBuf::new(&mut self.answer[self.read..]);
            ready!(self.stream.as_mut().poll_read(context, &mut room))?;
            let bytes = room.filled().len();
            if bytes == 0 {
                return Poll::Ready(Err(closed_after(self.read)));
            }
            self.read += bytes;
            if let Some(answer) = Answer::find(&self.answer[..self.read])? {
                let is_all = answer.body.end == self.read;
                return Poll::Ready(if is_all { Ok(answer) } else { Err(too_much()) });
            }
        }
    }
}

fn closed_after(bytes: usize) -> anyhow::Error {
    let when = if bytes == 0 { "before" } else { "in the middle of" };
    anyhow::anyhow!("the connection was closed {when} an answer")
}

fn too_much() -> anyhow::Error {
    anyhow::anyhow!("more bytes than one answer")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::yield_now;

    use super::*;

    const HEAD: &str = "HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\n\r\n";
    const LONG: Duration = Duration::from_secs(10);

    /// What a server does on one connection, over and over, when it has read a request: it sends these one by one.
    type Segments = &'static [&'static str];

    /// On the first connection the first, and so on; each is closed after so many answers. Returns what was asked in all.
    async fn serve(listener: TcpListener, connections: Vec<(usize, Segments)>) -> Vec<String> {
        let mut requests = Vec::new();
        for (answers, segments) in connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..answers {
                requests.push(read_request(&mut stream).await);
                for segment in segments {
                    stream.write_all(segment.as_bytes()).await.unwrap();
                    // The other side reads it before the next one is sent.
                    yield_now().await;
                }
            }
        }
        requests
    }

    async fn read_request(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"{}") {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        }
        String::from_utf8(bytes).unwrap()
    }

    async fn wire(timeout: Duration) -> (Wire, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        (Wire::new(&base.parse().unwrap(), timeout).unwrap(), listener)
    }

    fn event() -> Event {
        Event {
            headers: b"x-event-id: 7\r\n".to_vec(),
            body: b"{}".to_vec(),
        }
    }

    async fn post(wire: &mut Wire) -> Result<String, String> {
        wire.write("/webhooks/generic/demo", &event()).unwrap();
        match wire.exchange().await {
            Ok((status, body)) => Ok(format!("{status} {}", std::str::from_utf8(body).unwrap())),
            Err(error) => Err(error.root_cause().to_string()),
        }
    }

    #[tokio::test]
    async fn one_connection_serves_many_requests_and_answers_may_come_in_pieces() {
        let pieces: [Segments; 3] = [
            &["HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\n\r\nbody"],
            &[HEAD, "body"],
            &[
                "HT",
                "TP/1.1 202 Accepted\r\ncontent-le",
                "ngth: 4\r\n\r",
                "\nbo",
                "dy",
            ],
        ];
        for segments in pieces {
            let (mut wire, listener) = wire(LONG).await;
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(serve(listener, vec![(3, segments)]));
            for _ in 0..3 {
                assert_eq!(post(&mut wire).await, Ok("202 body".to_owned()), "{segments:?}");
            }
            let request = format!(
                "POST /webhooks/generic/demo HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
                 content-length: 2\r\nx-event-id: 7\r\n\r\n{{}}"
            );
            assert_eq!(server.await.unwrap(), vec![request; 3]);
        }
    }

    #[tokio::test]
    async fn an_odd_answer_is_an_error_and_the_next_request_has_a_new_connection() {
        let cases: [(Segments, &str); 6] = [
            (&[], "the connection was closed before an answer"),
            (
                &[HEAD, "bo"],
                "the connection was closed in the middle of an answer",
            ),
            (&["HTTP/1.1 202 Accepted\r\n\r\n"], "no content-length"),
            (
                &["HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
                "transfer-encoding chunked, which is not understood here",
            ),
            (
                &["HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\nHTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n"],
                "more bytes than one answer",
            ),
            (&["nonsense\r\n"], "not HTTP: invalid HTTP version"),
        ];
        for (segments, error) in cases {
            let (mut wire, listener) = wire(LONG).await;
            let server = tokio::spawn(serve(listener, vec![(1, segments), (1, &[HEAD, "body"])]));
            assert_eq!(post(&mut wire).await, Err(error.to_owned()));
            assert_eq!(post(&mut wire).await, Ok("202 body".to_owned()), "after {error}");
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_made_anew() {
        let close: Segments =
            &["HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlast"];
        let (mut wire, listener) = wire(LONG).await;
        let server = tokio::spawn(serve(
            listener,
            vec![(1, &[HEAD, "body"]), (1, close), (1, &[HEAD, "body"])],
        ));
        assert_eq!(post(&mut wire).await, Ok("202 body".to_owned()));
        // What the server says is seen when the runtime has looked.
        while wire
            .stream
            .as_ref()
            .is_some_and(|stream| is_usable(stream).unwrap())
        {
            yield_now().await;
        }
        assert_eq!(post(&mut wire).await, Ok("202 last".to_owned()));
        assert!(wire.stream.is_none(), "it said so");
        assert_eq!(post(&mut wire).await, Ok("202 body".to_owned()));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_unasked_between_requests_is_an_error() {
        let (mut wire, listener) = wire(LONG).await;
        let server = tokio::spawn(serve(listener, vec![(1, &[HEAD, "body", "more"])]));
        assert_eq!(post(&mut wire).await, Ok("202 body".to_owned()));
        server.await.unwrap();
        yield_now().await;
        assert_eq!(
            post(&mut wire).await,
            Err("the connection has said what nobody asked for".to_owned())
        );
    }

    /// The server reads nothing of a body that no socket's buffers can hold.
    #[tokio::test]
    async fn a_refusal_is_read_before_the_whole_request_is_sent() {
        let (mut wire, listener) = wire(LONG).await;
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        });
        let event = Event {
            headers: Vec::new(),
            body: vec![b'x'; 64 << 20],
        };
        wire.write("/", &event).unwrap();
        let (status, _) = wire.exchange().await.unwrap();
        assert_eq!(status, 413);
        assert!(wire.stream.is_none(), "half a request is on it");
        drop(server.await.unwrap());
    }

    #[tokio::test]
    async fn an_answer_is_waited_for_so_long_from_its_own_request() {
        const TIMEOUT: Duration = Duration::from_millis(200);
        let (mut wire, listener) = wire(TIMEOUT).await;
        let server = tokio::spawn(serve(listener, vec![(usize::MAX, &[HEAD, "body"])]));
        let began = Instant::now();
        while began.elapsed() < TIMEOUT * 2 {
            assert_eq!(post(&mut wire).await, Ok("202 body".to_owned()));
        }
        server.abort();
        // Its listener is gone with it: another one that accepts, and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        wire.address = silent.local_addr().unwrap().to_string();
        wire.stream = None;
        let began = Instant::now();
        assert_eq!(post(&mut wire).await, Err("none within 0.2 s".to_owned()));
        assert!(began.elapsed() >= TIMEOUT);
    }

    #[tokio::test]
    async fn an_answer_may_be_longer_than_they_are_but_not_without_end() {
        let (mut wire, listener) = wire(LONG).await;
        let server = tokio::spawn(async move {
            for bytes in [MOST_ANSWER_BYTES - 100, MOST_ANSWER_BYTES] {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_request(&mut stream).await;
                let head = format!("HTTP/1.1 500 Oh\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n");
                let answer = head + &"x".repeat(bytes);
                // The second is not read to its end.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let whole = post(&mut wire).await.unwrap();
        assert_eq!(whole.len(), "500 ".len() + MOST_ANSWER_BYTES - 100);
        assert_eq!(post(&mut wire).await, Err("more than 16384 bytes".to_owned()));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error() {
        let (mut wire, listener) = wire(LONG).await;
        drop(listener);
        let error = post(&mut wire).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }
}
