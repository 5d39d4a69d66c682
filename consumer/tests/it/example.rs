//! `examples/warehouse.rs`, which `docs/handlers.md` shows: a team's whole program, run as one.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::world::{World, in_time};

/// What the warehouse asks for, well beyond the back-off of these tests.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A program may be so short, and no longer.
const FEWER_LINES_THAN: usize = 30;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_document_shows_it_and_it_is_short() {
    let example = file("examples/warehouse.rs");
    assert!(example.lines().count() < FEWER_LINES_THAN);
    let shown = format!("```rust\n{example}```\n");
    assert!(
        file("../docs/handlers.md").contains(&shown),
        "docs/handlers.md does not show consumer/examples/warehouse.rs as it is"
    );
}

/// A request to the warehouse: its first line and headers in lower case, and its body.
struct Request {
    head: String,
    body: String,
}

impl Request {
    async fn read(stream: &mut BufReader<TcpStream>) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
        }
        let head = head.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        Self {
            head,
            body: String::from_utf8(body).unwrap(),
        }
    }

    fn idempotency_key(&self) -> &str {
        let key = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix("idempotency-key: "));
        key.unwrap_or_else(|| panic!("no idempotency key in {}", self.head))
    }
}

/// Takes one request and answers it.
async fn answer(warehouse: &TcpListener, answer: &str) -> Request {
    let (stream, _) = in_time("a request", warehouse.accept()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let request = Request::read(&mut stream).await;
    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_announces_orders_waits_as_it_is_told_and_gives_up_what_is_refused() {
    let mut world = World::new().await;
    world.carry();
    let warehouse = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // The program's address is fixed; we stand in as its proxy.
    let proxy = format!("http://{}", warehouse.local_addr().unwrap());
    let program = Path::new(env!("CARGO_BIN_EXE_relayforge-consumer")).with_file_name("examples/warehouse");
    assert!(
        program.exists(),
        "not built: run all of this package's tests, or cargo build -p consumer --examples"
    );
    let mut process = Command::new(program)
        .env_clear()
        .env("APP_ENV", "production")
        .env("DATABASE__URL", world.db.url("relayforge_consumer").expose())
        .env("AMQP__URL", world.broker.amqp_url())
        .env("AMQP__PREFIX", world.broker.prefix())
        .env("CONSUMER__LISTEN", "127.0.0.1:0")
        .env("CONSUMER__BACKOFF_BASE_MS", "20")
        .env("http_proxy", proxy)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let job_id = world.job("warehouse", json!({ "order": 17 })).await;
    let asked = format!("503 Busy\r\nretry-after: {}", RETRY_AFTER.as_secs());
    let first = answer(&warehouse, &asked).await;
    let told = Instant::now();
    let second = answer(&warehouse, "201 Created").await;
    assert!(told.elapsed() >= RETRY_AFTER, "after {:?}", told.elapsed());
    for request in [&first, &second] {
        assert!(
            request.head.starts_with("post http://warehouse.internal/orders "),
            "{}",
            request.head
        );
        assert_eq!(request.idempotency_key(), job_id.to_string());
        assert_eq!(request.body, r#"{"order":17}"#);
    }
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 2);

    let refused = world.job("warehouse", json!({ "order": "none" })).await;
    answer(&warehouse, "422 No Such Order").await;
    let given_up = world.until(refused, "dead_lettered").await;
    assert_eq!(
        (given_up.attempts, given_up.last_error.as_deref()),
        (1, Some("it answered 422"))
    );

    // The built-in kinds are there too.
    let logged = world.job("log", json!({})).await;
    world.until(logged, "succeeded").await;
    let pid = process.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    assert!(sent.success());
    assert!(in_time("it ends", process.wait()).await.unwrap().success());
}
