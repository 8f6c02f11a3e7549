//! A model that answers at once, and notes when it was asked and when it had answered.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Notes = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// The least that passes for an Ollama, on a port of its own.
#[derive(Debug)]
pub(crate) struct Instantly {
    address: SocketAddr,
    notes: Notes,
}

impl Instantly {
    pub(crate) async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Notes::default();
        let noted = Arc::clone(&notes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_at_once(stream, Arc::clone(&noted)));
            }
        });
        Self { address, notes }
    }

    /// What a manifest says of it.
    pub(crate) fn lines(&self) -> String {
        format!("kind = \"ollama\"\nurl = \"http://{}\"\nmodel = \"instant:1b\"", self.address)
    }

    /// When it was asked and when it had answered, since this was called last: once.
    pub(crate) fn only_note(&self) -> (Instant, Instant) {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap());
        let [note] = notes.as_slice() else {
            panic!("a turn asked the model {} times", notes.len())
        };
        *note
    }
}

async fn answer_at_once(mut stream: TcpStream, notes: Notes) {
    const SHOWN: &str = r#"{"capabilities":["completion","tools"]}"#;
    const SAID: &str = concat!(
        r#"{"model":"instant:1b","message":{"role":"assistant","content":"Nothing."},"done":false}"#,
        "\n",
        r#"{"model":"instant:1b","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":9,"eval_count":2}"#,
        "\n",
    );
    stream.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    loop {
        let Some(head) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
            continue;
        };
        let words = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
        let length = words.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        let whole = head + 4 + length;
        if read.len() < whole {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
            continue;
        }
        let came = Instant::now();
        read.drain(..whole);
        let asked = words.starts_with("post /api/chat");
        let (kind, body) =
            if asked { ("application/x-ndjson", SAID) } else { ("application/json", SHOWN) };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        if asked {
            // Noted first: the turn may be over before this task runs again.
            notes.lock().unwrap().push((came, Instant::now()));
        }
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
