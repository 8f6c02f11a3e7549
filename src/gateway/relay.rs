//! A model's stream on its way to the agent, watched line by line.
//!
//! Lines go through byte for byte. Added is only what makes the end certain:
//! a stream that stops without `done` gets a last line that says so, a model
//! that repeats itself is cut, silence has a deadline, and whatever happened is
//! accounted for. When the agent goes away, or no longer reads, the upstream is
//! dropped, which is how Ollama is told to stop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::queue::Seat;
use super::repeats::RepeatGuard;
use super::upstream::{Answer, broken_off, error_body, error_words};
use super::{Accounts, Usage, UsageOutcome, words};
use crate::line::Lines;
use crate::unit::Period;

/// As often in a row comes a chunk before Ollama's own guard, which only some of its modes have, ends
/// the stream without a word.
const SAME_CHUNKS_OF_OLLAMA: u32 = 30;
/// Lines on their way to the agent: a whole answer, at a line for a token, so that
/// an agent that reads slowly keeps no other from the model.
pub(super) const LINES_UNDERWAY_MAX: usize = 4096 + 64;
/// How long an agent may leave more than that unread before it loses its turn.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// How long the end of a finished stream is waited for, to keep the connection.
const ENDING_MAX: Duration = Duration::from_millis(500);

/// Writes down one use of the model when it is dropped: whatever happens before
/// is at least a [`UsageOutcome::Cut`].
#[derive(Debug)]
pub(super) struct Meter {
    accounts: Accounts,
    started: Instant,
    prompt_tokens: u64,
    completion_tokens: u64,
    outcome: UsageOutcome,
}

impl Meter {
    pub(super) fn start(accounts: Accounts) -> Self {
        Self {
            accounts,
            started: Instant::now(),
            prompt_tokens: 0,
            completion_tokens: 0,
            outcome: UsageOutcome::Cut,
        }
    }

    /// A finished answer: `counters` is its last line. Ollama leaves out what is zero.
    pub(super) fn done(&mut self, counters: &Value) {
        let count = |name: &str| counters[name].as_u64().unwrap_or(0);
        self.prompt_tokens = count("prompt_eval_count");
        self.completion_tokens = count("eval_count");
        self.outcome = UsageOutcome::Done;
    }

    pub(super) fn failed(&mut self) {
        self.outcome = UsageOutcome::Failed;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.accounts.record(|model| Usage {
            model,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            duration: Period::milliseconds(elapsed),
            outcome: self.outcome,
        });
    }
}

/// Counts how often the same chunk came in a row, as Ollama does.
#[derive(Debug, Default)]
struct SameChunks {
    last: String,
    count: u32,
}

impl SameChunks {
    fn take_note(&mut self, chunk: &str) {
        let chunk = chunk.trim();
        if chunk.is_empty() || chunk != self.last {
            chunk.clone_into(&mut self.last);
            self.count = 0;
        }
        self.count += u32::from(!chunk.is_empty());
    }
}

/// One streamed answer and all that it holds.
pub(super) struct Relay {
    answer: Answer,
    lines: Lines,
    guard: RepeatGuard,
    same: SameChunks,
    /// The last line of text, for the form of a last line of our own.
    before: Value,
    meter: Meter,
    seat: Seat,
    silence_max: Duration,
}

impl Relay {
    pub(super) fn new(answer: Answer, meter: Meter, seat: Seat, silence_max: Duration) -> Self {
        let (lines, guard, same) = Default::default();
        Self { answer, lines, guard, same, before: Value::Null, meter, seat, silence_max }
    }

    /// Hands lines on until the stream ends or nobody takes them.
    pub(super) async fn run(mut self, client: mpsc::Sender<Bytes>) {
        let finished = tokio::select! {
            // A client that left is seen even while the model is silent.
            () = client.closed() => false,
            finished = self.pump(&client) => finished,
        };
        let Self { mut answer, meter, seat, .. } = self;
        // Written down and free for the next one before the client sees the end.
        drop(meter);
        drop(seat);
        drop(client);
        if finished {
            let _ = timeout(ENDING_MAX, answer.body.next()).await;
        }
    }

    /// Whether the stream came to its own end.
    async fn pump(&mut self, client: &mpsc::Sender<Bytes>) -> bool {
        loop {
            let judged = match self.line().await {
                Ok(line) => self.judge(&line).map(|next| (line, next)),
                Err(words) => Err(words),
            };
            // Whatever it was, the client gets a last line that it can read.
            let (line, next) = judged.unwrap_or_else(|words| {
                tracing::debug!(words, "a model's stream broke off");
                (with_line_feed(error_body(&words)), Next::End)
            });
            let mut sent = send(client, line).await;
            if let Next::Cut(last) = &next {
                sent = sent && send(client, last.clone()).await;
            }
            match next {
                Next::Line if sent => {}
                Next::End if sent => return true,
                _ => return false,
            }
        }
    }

    /// The next line, or in words why there is none.
    async fn line(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some(line) = self.lines.take().map_err(|error| broken_off(&error.to_string()))? {
                return Ok(line);
            }
            let chunk = timeout(self.silence_max, self.answer.body.next()).await;
            match chunk {
                Ok(Some(Ok(chunk))) => self.lines.push(&chunk),
                Ok(Some(Err(cause))) => return Err(broken_off(&cause)),
                // A whole answer, such as that to a preload, has no line feed.
                Ok(None) => {
                    if let Some(rest) = self.lines.rest() {
                        return Ok(rest);
                    }
                    if self.same.count > SAME_CHUNKS_OF_OLLAMA {
                        return Ok(self.last_for_repeats());
                    }
                    return Err(broken_off("the server closed the connection"));
                }
                Err(_) => {
                    let seconds = self.silence_max.as_secs();
                    return Err(broken_off(&format!("nothing came for {seconds} s")));
                }
            }
        }
    }

    /// Reads a line for what it means to the gateway, or says in words why it cannot.
    fn judge(&mut self, line: &[u8]) -> Result<Next, String> {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            let is_page = words::is_markup(&String::from_utf8_lossy(line));
            let what = if is_page { "a web page" } else { "a line that is not JSON" };
            return Err(broken_off(&format!("the server sent {what}")));
        };
        if let Some(error) = value.get("error") {
            tracing::debug!(error = error_words(error), "the model failed in mid-answer");
            self.meter.failed();
            return Ok(Next::End);
        }
        if value["done"] == Value::Bool(true) {
            self.meter.done(&value);
            return Ok(Next::End);
        }
        // One line is about one token: a count for answers that never reach their own.
        self.meter.completion_tokens += 1;
        let generated = value.get("response").is_some();
        let said = if generated { &value } else { &value["message"] };
        let text = |field: &str| said[field].as_str().unwrap_or_default();
        let text = [text("content"), text("response"), text("thinking")].concat();
        self.same.take_note(&text);
        let repeats = said.get("tool_calls").is_none() && self.guard.tripped_by(&text);
        self.before = value;
        Ok(if repeats { Next::Cut(self.last_for_repeats()) } else { Next::Line })
    }

    /// The end of an answer that turns in circles: what was said so far stands,
    /// and `done_reason` tells an agent that knows the word. Others see an end.
    fn last_for_repeats(&self) -> Bytes {
        let line = &self.before;
        let mut last = json!({ "model": line["model"], "created_at": line["created_at"] });
        if line.get("response").is_some() {
            last["response"] = "".into();
        } else {
            last["message"] = json!({ "role": "assistant", "content": "" });
        }
        last["done"] = true.into();
        last["done_reason"] = "repeat".into();
        last["eval_count"] = self.meter.completion_tokens.into();
        with_line_feed(last.to_string().into())
    }
}

/// What comes after a line.
enum Next {
    /// The next line.
    Line,
    /// Nothing: it was the last.
    End,
    /// One more line of our own, and the upstream is dropped.
    Cut(Bytes),
}

/// Whether the client took the line.
async fn send(client: &mpsc::Sender<Bytes>, line: Bytes) -> bool {
    matches!(timeout(UNREAD_MAX, client.send(line)).await, Ok(Ok(())))
}

fn with_line_feed(line: Bytes) -> Bytes {
    [&line[..], b"\n"].concat().into()
}
