//! A model's stream on its way to the agent, watched line by line.
//!
//! Lines go through byte for byte, but for frames and ends that are not
//! Ollama's own, which are made so. Added is only what makes the end certain:
//! a stream that stops without one gets a last line that says so, a model
//! that repeats itself is cut, silence has a deadline, and whatever happened is
//! accounted for. When the agent goes away, or no longer reads, the upstream is
//! dropped, which is how Ollama is told to stop.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::queue::Seat;
use super::repeats::RepeatGuard;
use super::shape::{self, Exact, Line};
use super::underway::LineSender;
use super::upstream::{Answer, broken_off, error_body, error_words};
use super::{Accounts, Usage, UsageOutcome, words};
use crate::line::Lines;
use crate::unit::Period;

/// As often in a row comes a chunk before Ollama's own guard, which only some of its modes have, ends
/// the stream without a word.
const SAME_CHUNKS_OF_OLLAMA: u32 = 30;
/// How long an agent may leave more than that unread before it loses its turn.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// Lines over which one object may be spread, and their bytes: each line has all of it read again.
const SPREAD_LINES_MAX: usize = 512;
const SPREAD_MAX: usize = 1 << 20;
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
    /// Whether the body has ended.
    over: bool,
    /// An object that is not whole yet, and over how many lines it goes already.
    open: (Vec<u8>, usize),
    /// Objects so far.
    objects: u64,
    /// Whether the last object could be a whole answer that does not say so.
    whole: bool,
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
        let (over, open, objects, whole) = (false, (Vec::new(), 0), 0, false);
        let before = Value::Null;
        Self {
            answer,
            lines,
            over,
            open,
            objects,
            whole,
            guard,
            same,
            before,
            meter,
            seat,
            silence_max,
        }
    }

    /// Hands lines on until the stream ends or nobody takes them.
    pub(super) async fn run(mut self, client: LineSender) {
        let finished = tokio::select! {
            // A client that left is seen even while the model is silent.
            () = client.closed() => false,
            finished = self.pump(&client) => finished,
        };
        let Self { mut answer, over, meter, seat, .. } = self;
        // Written down and free for the next one before the client sees the end.
        drop(meter);
        drop(seat);
        drop(client);
        if finished && !over {
            let _ = timeout(ENDING_MAX, answer.body.next()).await;
        }
    }

    /// Whether the stream came to its own end.
    async fn pump(&mut self, client: &LineSender) -> bool {
        loop {
            let judged = match self.line().await {
                Ok(Some(line)) => self.judge(&line),
                Ok(None) => self.judge_end(),
                Err(words) => Err(words),
            };
            // Whatever it was, the client gets a last line that it can read.
            let (lines, next) = judged.unwrap_or_else(|words| {
                tracing::debug!(words, "a model's stream broke off");
                (vec![with_line_feed(error_body(&words))], AfterLine::End)
            });
            let mut sent = true;
            for line in lines {
                sent = sent && send(client, line).await;
            }
            match next {
                AfterLine::Line if sent => {}
                AfterLine::End if sent => return true,
                _ => return false,
            }
        }
    }

    /// The next line, nothing at the end of the body, or in words why there is neither.
    async fn line(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(line) = self.lines.take().map_err(|error| broken_off(&error.to_string()))? {
                return Ok(Some(line));
            }
            if self.over {
                // A whole answer, such as that to a preload, has no line feed.
                return Ok(self.lines.rest());
            }
            let chunk = timeout(self.silence_max, self.answer.body.next()).await;
            match chunk {
                Ok(Some(Ok(chunk))) => self.lines.push(&chunk),
                Ok(Some(Err(cause))) => return Err(broken_off(&cause)),
                Ok(None) => self.over = true,
                Err(_) => {
                    let seconds = self.silence_max.as_secs();
                    return Err(broken_off(&format!("nothing came for {seconds} s")));
                }
            }
        }
    }

    /// Reads a line for what it means to the gateway, or says in words why it cannot.
    fn judge(&mut self, line: &[u8]) -> Result<(Vec<Bytes>, AfterLine), String> {
        let (mut open, spread) = std::mem::take(&mut self.open);
        let alone = open.is_empty();
        open.extend_from_slice(line);
        match shape::read(&open) {
            Line::Blank => Ok((Vec::new(), AfterLine::Line)),
            Line::Open if spread < SPREAD_LINES_MAX && open.len() <= SPREAD_MAX => {
                self.open = (open, spread + 1);
                Ok((Vec::new(), AfterLine::Line))
            }
            Line::Open | Line::Strange => {
                let is_page = words::is_markup(&String::from_utf8_lossy(&open));
                let what = if is_page { "a web page" } else { "a line that is not JSON" };
                Err(broken_off(&format!("the server sent {what}")))
            }
            Line::End => Ok(self.end("stop")),
            Line::Objects(objects, exact) => {
                let as_it_came = (alone && exact == Exact::Yes).then_some(open);
                Ok(self.pass(objects, as_it_came))
            }
        }
    }

    /// What is sent for these objects of one line, which is `as_it_came` where that is well formed.
    fn pass(
        &mut self,
        objects: Vec<Value>,
        as_it_came: Option<Vec<u8>>,
    ) -> (Vec<Bytes>, AfterLine) {
        let mut lines = Vec::new();
        for mut object in objects {
            let next = self.weigh(&object);
            // What ends an answer says so in Ollama's own word.
            let ends = next == AfterLine::End && shape::error(&object).is_none();
            let worded = !ends || object["done"] == Value::Bool(true);
            lines.push(match &as_it_came {
                // The last line may lack its line feed, which no other may.
                Some(bytes) if worded && (next == AfterLine::End || bytes.ends_with(b"\n")) => {
                    bytes.clone().into()
                }
                _ => {
                    if ends {
                        object["done"] = true.into();
                    }
                    with_line_feed(object.to_string().into())
                }
            });
            if next == AfterLine::Cut {
                lines.push(with_line_feed(self.last("repeat").to_string().into()));
            }
            if next != AfterLine::Line {
                return (lines, next);
            }
        }
        (lines, AfterLine::Line)
    }

    /// The end of the body, which is not always that of the answer.
    fn judge_end(&mut self) -> Result<(Vec<Bytes>, AfterLine), String> {
        if self.objects == 1 && self.whole && self.open.0.is_empty() {
            return Ok(self.end("stop"));
        }
        if self.same.count > SAME_CHUNKS_OF_OLLAMA {
            return Ok(self.end("repeat"));
        }
        Err(broken_off("the server closed the connection"))
    }

    /// Accounts for one object of the stream.
    fn weigh(&mut self, value: &Value) -> AfterLine {
        self.objects += 1;
        self.whole = shape::may_be_whole(value);
        if let Some(error) = shape::error(value) {
            tracing::debug!(error = error_words(error), "the model failed in mid-answer");
            self.meter.failed();
            return AfterLine::End;
        }
        if shape::is_end(value) {
            self.meter.done(value);
            return AfterLine::End;
        }
        // One line is about one token: a count for answers that never reach their own.
        self.meter.completion_tokens += 1;
        let generated = value.get("response").is_some();
        let said = if generated { value } else { &value["message"] };
        let text = |field: &str| said[field].as_str().unwrap_or_default();
        let text = [text("content"), text("response"), text("thinking")].concat();
        self.same.take_note(&text);
        let repeats = said["tool_calls"].is_null() && self.guard.tripped_by(&text);
        self.before = value.clone();
        if repeats { AfterLine::Cut } else { AfterLine::Line }
    }

    /// An end of our own: the answer is whole, or the server itself saw it turn in circles.
    fn end(&mut self, reason: &str) -> (Vec<Bytes>, AfterLine) {
        let last = self.last(reason);
        self.meter.done(&last);
        (vec![with_line_feed(last.to_string().into())], AfterLine::End)
    }

    /// A last line of our own. Where a model turned in circles, what was said so far stands, and
    /// `done_reason` tells an agent that knows the word. Others see an end.
    fn last(&self, reason: &str) -> Value {
        let line = &self.before;
        let mut last = json!({ "model": line["model"], "created_at": line["created_at"] });
        if line.get("response").is_some() {
            last["response"] = "".into();
        } else {
            last["message"] = json!({ "role": "assistant", "content": "" });
        }
        last["done"] = true.into();
        last["done_reason"] = reason.into();
        last["eval_count"] = self.meter.completion_tokens.into();
        last
    }
}

/// What comes after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterLine {
    /// The next line.
    Line,
    /// Nothing: it was the last.
    End,
    /// Nothing, and the upstream is dropped.
    Cut,
}

/// Whether the client took the line.
async fn send(client: &LineSender, line: Bytes) -> bool {
    timeout(UNREAD_MAX, client.send(line)).await.unwrap_or(false)
}

fn with_line_feed(line: Bytes) -> Bytes {
    [&line[..], b"\n"].concat().into()
}
