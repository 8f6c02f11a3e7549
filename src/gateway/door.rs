//! One agent's way to its model: checked, in turn, within deadlines, accounted for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::queue::Seat;
use super::relay::{Meter, Relay};
use super::rules::{self, Object};
use super::shape;
use super::underway::{LineReceiver, lines};
use super::upstream::{self, Answer, Endpoint, Refusal, Upstream};
use super::{Accounts, BODY_MAX, Caller, QUESTION_MAX, Shared};
use crate::protocol::Failure;

/// Until a model must have said its first word: loading a large one takes minutes,
/// and giving up makes Ollama give up the loading too.
const FIRST_WORD_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a model that has begun may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// The slowest model that is worth waiting for. While Ollama collects a tool call
/// it sends nothing, so with tools a silence may last for a whole answer.
const TOKENS_PER_SECOND_MIN: u64 = 5;

/// The state of one caller's router.
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Caller,
    pub(super) upstream: Box<dyn Upstream>,
}

/// What a model answered.
pub(super) enum Answered {
    /// Lines as they come.
    Streamed(LineReceiver, HeaderValue),
    /// One object.
    Whole(Bytes),
}

pub(super) type Posted = Result<Bytes, BytesRejection>;

impl Door {
    /// Asks the upstream a question that costs no work.
    pub(super) async fn question(
        &self,
        endpoint: Endpoint,
        request: Object,
    ) -> Result<Value, Refusal> {
        let answer = async {
            let answer = self.upstream.ask(endpoint, request.into()).await?;
            let status = answer.status;
            let body = answer.whole().await?;
            if !status.is_success() {
                return Err(Refusal::passed(status, body));
            }
            serde_json::from_slice(&body)
                .map_err(|_| Refusal::gateway("the model's server sent an answer that is not JSON"))
        };
        in_time(QUESTION_MAX, answer).await
    }

    /// Reads a request that names a model, and checks that it is the caller's.
    pub(super) fn checked(&self, body: Posted) -> Result<Object, Refusal> {
        let request = rules::object(&posted(body)?)?;
        rules::check_model(&request, &self.caller.name, &self.caller.spec)?;
        Ok(request)
    }

    /// Has the model work: by the rules, in its turn, and accounted for.
    pub(super) async fn work(
        &self,
        endpoint: Endpoint,
        request: Object,
    ) -> Result<Answered, Refusal> {
        let streamed = endpoint != Endpoint::Embed && request.get("stream") != Some(&false.into());
        let request = rules::rebuild(endpoint, request, &self.caller.spec);
        let silence_max = silence_max(&request);

        let queue = self.shared.queues.of(&self.caller.name);
        let seat = queue.seat(&self.caller.group).await?;
        let mut meter = Meter::start(self.accounts());
        let asked = self.upstream.ask(endpoint, request.into());
        let answer = in_time(FIRST_WORD_MAX, asked).await.inspect_err(|_| meter.failed())?;

        if !answer.status.is_success() {
            meter.failed();
            let status = answer.status;
            let body = in_time(SILENCE_MAX, answer.whole()).await?;
            return Err(Refusal::passed(status, body));
        }
        if !streamed {
            return whole(endpoint, answer, meter, seat).await.map(Answered::Whole);
        }
        let content_type = answer.content_type.clone();
        let (sender, receiver) = lines();
        tokio::spawn(Relay::new(answer, meter, seat, silence_max).run(sender));
        Ok(Answered::Streamed(receiver, content_type))
    }

    fn accounts(&self) -> Accounts {
        Accounts {
            model: self.caller.name.clone(),
            sender: self.caller.usage.clone(),
            dropped: self.shared.usage_dropped.clone(),
        }
    }
}

/// An answer that comes in one piece.
async fn whole(
    endpoint: Endpoint,
    answer: Answer,
    mut meter: Meter,
    _seat: Seat,
) -> Result<Bytes, Refusal> {
    // The first word comes with the last, so the whole answer has that much time.
    let body = in_time(FIRST_WORD_MAX, answer.whole()).await?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|_| Refusal::gateway(upstream::broken_off("it is not JSON")))?;
    if let Some(error) = shape::error(&value) {
        meter.failed();
        let words = upstream::error_words(error);
        let meant = Failure::meant_by(&words).unwrap_or(Failure::Busy);
        return Err(Refusal::gateway(words).meaning(meant));
    }
    // Ollama's own guard against repetition leaves an answer that is not done.
    if endpoint != Endpoint::Embed && !(shape::is_end(&value) || shape::may_be_whole(&value)) {
        return Err(Refusal::gateway(upstream::broken_off("it is not complete")));
    }
    meter.done(&value);
    Ok(body)
}

/// How long a model that has begun may be silent, by what it was asked.
fn silence_max(request: &Object) -> Duration {
    let slowest = Duration::from_secs(rules::tokens_of(request) / TOKENS_PER_SECOND_MIN);
    let tools = request.get("tools").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if tools { SILENCE_MAX.max(slowest) } else { SILENCE_MAX }
}

async fn in_time<T>(
    most: Duration,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    timeout(most, work).await.unwrap_or_else(|_| {
        let words = format!("the model's server has not answered within {} s", most.as_secs());
        Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, words))
    })
}

fn posted(body: Posted) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let words = format!("the request is larger than {} MiB", BODY_MAX >> 20);
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, words)
        }
        status => Refusal::new(status, rejection.body_text()),
    })
}
