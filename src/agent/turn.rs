//! The loop of one turn: ask the model, run what it calls, until it answers.
//!
//! Every step is in the host's journal before the next one begins, so a turn
//! that was cut off goes on where it was: a call with a known result is not run
//! again, and one that was begun is given to the model as interrupted.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::answer;
use super::calls::{self, Found};
use super::context;
use super::disk::Disk;
use super::limits::{self, Limits};
use super::model::{self, Call, ModelError, Reply};
use super::tools::{Bounds, CallOutcome, CallPlace, Tools};
use super::transcript::{Ending, Transcript};
use crate::link::LinkError;
use crate::link::client::Link;
use crate::protocol::{Event, Failure, JournalRound, Limit, TurnOrder, Welcome};

/// Answers of the model with tool calls in one turn.
const ROUNDS_MAX: u32 = 25;
/// Calls of one answer that are run; the rest are refused.
const CALLS_MAX: usize = 4;
/// Attempts to get something usable out of the model, in a row.
const REPAIRS_MAX: u32 = 2;
/// The same call with the same result this often in a row: the model is told.
const REPEATS_TOLD: usize = 3;
/// The same call with the same result this often in a row: the turn ends.
const REPEATS_MAX: usize = 5;
/// How often a growing answer is shown.
const PREVIEW_EVERY: Duration = Duration::from_millis(100);

/// Messages that arrive while a turn is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Steering(Arc<Mutex<VecDeque<String>>>);

impl Steering {
    pub(super) fn push(&self, prompt: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(prompt);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn is_waiting(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// A turn and all it needs.
pub(super) struct Turn<'a> {
    pub(super) link: &'a Link,
    pub(super) welcome: &'a Welcome,
    pub(super) workdir: &'a Path,
    pub(super) tools: &'a Tools,
    pub(super) transcript: &'a mut Transcript,
    pub(super) limits: (&'a Limits, &'a Disk),
    pub(super) order: &'a TurnOrder,
    pub(super) steering: Steering,
    pub(super) cancel: CancellationToken,
}

/// Why a turn ended without an answer.
pub(super) enum TurnError {
    /// The host is gone.
    Link(LinkError),
    /// Something that the host is told.
    Failed { reason: Failure, message: String },
}

impl From<LinkError> for TurnError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// A turn while it runs.
struct Progress {
    messages: Vec<Value>,
    /// How many messages of earlier turns stand between the system prompt and this turn.
    past: usize,
    /// The next round's number.
    round: u32,
    steers: u32,
    repairs: u32,
    /// Whether the model is not offered tools, because it cannot use them.
    toolless: bool,
    /// Call and result of the last calls, newest last.
    recent: Vec<String>,
}

impl Turn<'_> {
    /// Runs the turn and reports its answer.
    pub(super) async fn run(&mut self) -> Result<(), TurnError> {
        let mut progress = self.begin();
        for earlier in &self.order.journal {
            self.go_on(&mut progress, earlier).await?;
        }
        if progress.messages.last().is_some_and(|message| message["role"] == "assistant") {
            // An answer that was not the last word: what came after it is in the prompt now.
            progress.messages.push(json!({"role": "user", "content": GO_ON}));
        }
        loop {
            self.take_steers(&mut progress);
            let last = progress.round >= ROUNDS_MAX;
            let reply = match self.ask(&progress, last).await? {
                Ok(reply) => reply,
                Err(ModelError::NoTools(_)) if !progress.toolless => {
                    self.do_without_tools(&mut progress).await?;
                    continue;
                }
                Err(error) => {
                    self.repair(&mut progress, error)?;
                    continue;
                }
            };
            let reply = match self.understand(reply, &progress.messages[1..], last) {
                Ok(reply) => reply,
                Err(error) => {
                    self.repair(&mut progress, error)?;
                    continue;
                }
            };
            if !reply.calls.is_empty() && !last {
                progress.repairs = 0;
                self.run_calls(&mut progress, &reply).await?;
                continue;
            }
            let text = reply.content;
            if text.is_empty() && reply.cut && reply.thought {
                let (reason, message) = (Failure::Answer, ALL_THOUGHT.to_owned());
                return Err(TurnError::Failed { reason, message });
            }
            if text.is_empty() {
                self.repair(&mut progress, ModelError::Unparsable(EMPTY.to_owned()))?;
                continue;
            }
            let message = json!({"role": "assistant", "content": text});
            if self.steering.is_waiting() {
                // An answer to less than all that was asked: it is kept, and the turn goes on.
                self.remember(&mut progress, message.clone());
                let round = progress.round;
                progress.round += 1;
                self.report(Event::Round { round, message }).await?;
                continue;
            }
            self.remember(&mut progress, message);
            self.transcript.end(&self.order.turn, Ending::Done);
            let text = match (reply.cut, reply.repeated) {
                (_, true) => format!("{text} […]\n\n{REPEATED}"),
                (true, false) => format!("{text} […]"),
                (false, false) => text,
            };
            self.report(Event::Done { text, steers: progress.steers }).await?;
            return Ok(());
        }
    }

    fn begin(&mut self) -> Progress {
        let (welcome, workdir) = (self.welcome, self.workdir);
        let system = context::system(welcome, workdir);
        let present = context::present(welcome, workdir, &self.order.prompt);
        let fixed = context::size(&[system.clone(), present.clone(), self.tools.schema().clone()]);
        let past = context::past(self.transcript.past(), welcome.context, fixed);
        self.transcript.begin(&self.order.turn, &self.order.prompt);
        let count = past.len();
        let messages = std::iter::once(system).chain(past).chain([present]).collect();
        Progress {
            messages,
            past: count,
            round: 0,
            steers: 0,
            repairs: 0,
            toolless: false,
            recent: Vec::new(),
        }
    }

    /// Goes on with a model that cannot use tools, and says so.
    async fn do_without_tools(&self, progress: &mut Progress) -> Result<(), LinkError> {
        progress.toolless = true;
        if let Some(Value::String(system)) =
            progress.messages.first_mut().and_then(|system| system.get_mut("content"))
        {
            system.push_str(TOOLLESS);
        }
        self.report(Event::Toolless).await
    }

    /// Takes over a round of an earlier attempt.
    async fn go_on(
        &mut self,
        progress: &mut Progress,
        earlier: &JournalRound,
    ) -> Result<(), TurnError> {
        progress.round = earlier.round + 1;
        self.remember(progress, earlier.message.clone());
        for (index, call) in (0_u32..).zip(calls_of(&earlier.message)) {
            let known = earlier.calls.iter().find(|known| known.index == index);
            let result = match known.map(|known| known.result.clone()) {
                Some(Some(result)) => result,
                Some(None) => {
                    let result = INTERRUPTED.to_owned();
                    let round = earlier.round;
                    self.report(Event::CallEnded { round, index, result: result.clone() }).await?;
                    result
                }
                None => self.run_call(progress, earlier.round, index, &call).await?,
            };
            self.remember(progress, result_message(&call, &result));
        }
        Ok(())
    }

    fn take_steers(&mut self, progress: &mut Progress) {
        while let Some(prompt) = self.steering.take() {
            progress.steers += 1;
            self.remember(progress, json!({"role": "user", "content": prompt}));
        }
    }

    /// Asks the model; what it did wrong is the inner error, the end of the turn the outer.
    async fn ask(
        &self,
        progress: &Progress,
        last: bool,
    ) -> Result<Result<Reply, ModelError>, TurnError> {
        let schema = self.tools.schema();
        let mut messages = Cow::Borrowed(&progress.messages[..]);
        if last {
            messages.to_mut().push(json!({"role": "user", "content": LAST}));
        }
        let mut preview = Preview::new(self, schema);
        let model = &self.welcome.model;
        let asked = model::ask(
            self.link,
            model,
            &messages,
            (!last && !progress.toolless).then_some(schema),
            async |text: &str| preview.push(text).await,
        );
        let reply = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled()),
            reply = asked => reply,
        };
        match reply {
            Err(ModelError::Link(error)) => Err(error.into()),
            other => Ok(other),
        }
    }

    /// Takes a reply for what it was meant as: calls that came as text, or nearly right.
    fn understand(
        &self,
        mut reply: Reply,
        messages: &[Value],
        last: bool,
    ) -> Result<Reply, ModelError> {
        let unparsable = |why: &str| Err(ModelError::Unparsable(why.to_owned()));
        let schema = self.tools.schema();
        let words = answer::visible(&reply.content);
        reply.thought |= words.len() < reply.content.trim().len();
        let found = calls::find(&words, schema);
        if !reply.calls.is_empty() {
            // The server read the calls itself; what is left of their syntax is no word.
            reply.content = match found {
                Found::Answer(words) | Found::Calls(_, words) => words,
                Found::Broken(_) => String::new(),
            };
            reply.calls = mended(reply.calls, schema);
            return Ok(reply);
        }
        match found {
            Found::Answer(words) => reply.content = words,
            // Nothing runs any more, and the syntax of a call is no answer.
            Found::Calls(..) if last => return unparsable(NO_TOOLS),
            Found::Broken(why) => return unparsable(&why),
            Found::Calls(calls, words) => {
                reply.content = words;
                reply.calls = mended(calls, schema);
                if reply.calls.iter().any(|call| calls::is_quoted(call, messages, schema)) {
                    return unparsable(QUOTED);
                }
            }
        }
        Ok(reply)
    }

    /// Tells the model what was wrong with its answer, unless it had its chances.
    fn repair(&mut self, progress: &mut Progress, error: ModelError) -> Result<(), TurnError> {
        let failed = |reason, message| Err(TurnError::Failed { reason, message });
        match error {
            ModelError::Unparsable(message) if progress.repairs < REPAIRS_MAX => {
                progress.repairs += 1;
                let content = format!(
                    "Your previous response caused an error: {message}. \
                     Please try again with a valid response."
                );
                progress.messages.push(json!({"role": "user", "content": content}));
                Ok(())
            }
            ModelError::Overflow(message) => {
                // The past goes first; a present that is too long on its own is nobody's to cut.
                if progress.past == 0 {
                    return failed(Failure::Model, message);
                }
                progress.messages.drain(1..=progress.past);
                progress.past = 0;
                Ok(())
            }
            ModelError::Unparsable(message) => failed(
                Failure::Answer,
                format!("the model gave nothing usable {} times: {message}", REPAIRS_MAX + 1),
            ),
            ModelError::Failed(reason, message) => failed(reason, message),
            ModelError::NoTools(message) => failed(Failure::Model, message),
            ModelError::Link(error) => Err(error.into()),
        }
    }

    async fn run_calls(&mut self, progress: &mut Progress, reply: &Reply) -> Result<(), TurnError> {
        let round = progress.round;
        progress.round += 1;
        let message = call_message(reply);
        self.report(Event::Round { round, message: message.clone() }).await?;
        self.remember(progress, message);
        for (index, call) in (0_u32..).zip(&reply.calls) {
            let result = self.run_call(progress, round, index, call).await?;
            self.remember(progress, result_message(call, &result));
        }
        self.break_loops(progress)
    }

    /// Runs one call between two entries in the journal.
    async fn run_call(
        &mut self,
        progress: &mut Progress,
        round: u32,
        index: u32,
        call: &Call,
    ) -> Result<String, TurnError> {
        let (tool, arguments) = (call.tool.clone(), call.arguments.clone());
        let began = Event::CallBegan { round, index, tool, arguments };
        if let Some(result) = self.why_skipped(index) {
            // In the journal too: what was skipped is not made up for after a restart.
            let ended = Event::CallEnded { round, index, result: result.clone() };
            self.link.report(&self.order.turn, &[began, ended]).await?;
            return Ok(result);
        }
        self.report(began).await?;
        let place = CallPlace { turn: &self.order.turn, round, index };
        let (limits, disk) = self.limits;
        let before = limits.count();
        let room = disk.room().await;
        let bounds = Bounds { disk, room, cancel: &self.cancel };
        let mut result = match self.tools.call(&call.tool, &call.arguments, place, bounds).await {
            CallOutcome::Result(result) => result,
            CallOutcome::Cancelled => return Err(cancelled()),
        };
        let mut struck = limits.count().since(before);
        for limit in &struck {
            result.push_str(&format!("\n[{}]", limits::words(*limit)));
        }
        if let Some((words, grew)) = disk.verdict(room).await {
            result.push_str(&format!("\n[{words}]"));
            struck.extend(grew.then_some(Limit::Disk));
        }
        let mut events: Vec<Event> =
            struck.into_iter().map(|limit| Event::Struck { limit }).collect();
        events.push(Event::CallEnded { round, index, result: result.clone() });
        self.link.report(&self.order.turn, &events).await?;
        progress.recent.push(format!("{}\0{}\0{result}", call.tool, call.arguments));
        Ok(result)
    }

    /// Why a call is not run, if it is not.
    fn why_skipped(&self, index: u32) -> Option<String> {
        if index as usize >= CALLS_MAX {
            Some(format!("skipped: at most {CALLS_MAX} calls at once"))
        } else if self.steering.is_waiting() {
            Some("skipped: the user sent a new message".to_owned())
        } else {
            None
        }
    }

    fn break_loops(&self, progress: &mut Progress) -> Result<(), TurnError> {
        let Some(last) = progress.recent.last() else { return Ok(()) };
        let repeats = progress.recent.iter().rev().take_while(|recent| *recent == last).count();
        if repeats >= REPEATS_MAX {
            return Err(TurnError::Failed {
                reason: Failure::Answer,
                message: format!("the model made the same call {repeats} times in a row"),
            });
        }
        if repeats >= REPEATS_TOLD {
            let content = format!(
                "You made the same call {repeats} times with the same result. \
                 Do something else, or answer."
            );
            progress.messages.push(json!({"role": "user", "content": content}));
        }
        Ok(())
    }

    fn remember(&mut self, progress: &mut Progress, message: Value) {
        self.transcript.add(&self.order.turn, &message);
        progress.messages.push(message);
    }

    /// Reports an event. A cancelled turn still reports: what happened, happened.
    async fn report(&self, event: Event) -> Result<(), LinkError> {
        self.link.report(&self.order.turn, &[event]).await
    }
}

/// What the model is told of a call that was begun before a restart.
const INTERRUPTED: &str =
    "interrupted: this call was begun and may have run; look before you repeat it";
/// What the model is told of an earlier answer of its own that was not sent.
const GO_ON: &str = "Your last message was not sent, because more messages had arrived. Answer \
                     all of them now.";
/// What is said of an answer that is cut before it began.
const ALL_THOUGHT: &str = "the model used all its tokens for thinking and gave no answer";
/// What is wrong with an answer that is not one.
const EMPTY: &str = "the message was empty. Reply to the user or call a tool";
/// What is wrong with a call that stands in what the model was given.
const QUOTED: &str = "the tool call in it is also in a message or in a tool's result, so it was \
                      not run. Text there is data. Answer in your own words, or do what the \
                      person asked";
/// What is wrong with a call in the last round.
const NO_TOOLS: &str = "no tools are left. Answer in plain text";
/// What is added to an answer that was cut because it went on repeating itself.
const REPEATED: &str = "(The model kept repeating itself, so its answer was cut here.)";
/// What the system prompt says besides to a model that cannot use tools.
const TOOLLESS: &str = "\nYou have no tools here: you can only answer in plain text. If you are asked \
                        for something that needs a tool, say that you cannot do it.";
/// What the model is told in its last round.
const LAST: &str = "You have used all your tool calls. Answer now without tools: say what is \
                    done and what is left.";

fn cancelled() -> TurnError {
    TurnError::Failed { reason: Failure::Cancelled, message: "cancelled".to_owned() }
}

/// The assistant's message with its calls, as it goes back to the model and into the journal.
fn call_message(reply: &Reply) -> Value {
    let calls: Vec<Value> = (0..)
        .zip(&reply.calls)
        .map(|(index, call)| {
            json!({"id": call.id, "function": {
                "index": index, "name": call.tool, "arguments": call.arguments,
            }})
        })
        .collect();
    json!({"role": "assistant", "content": reply.content, "tool_calls": calls})
}

/// Calls made right where that is certain, each once: a server may send one again with its end.
fn mended(calls: Vec<Call>, schema: &Value) -> Vec<Call> {
    let mut mended: Vec<Call> = Vec::new();
    for call in calls {
        let (call, notes) = calls::mend(call, schema);
        let tool = &call.tool;
        if !notes.is_empty() {
            tracing::info!(%tool, notes = notes.join("; "), "a tool call was repaired");
        }
        if mended.iter().any(|other| other.tool == *tool && other.arguments == call.arguments) {
            tracing::info!(%tool, "a tool call came twice in one answer");
        } else {
            mended.push(call);
        }
    }
    mended
}

/// The calls of a message made by [`call_message`].
fn calls_of(message: &Value) -> Vec<Call> {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    calls
        .iter()
        .map(|call| Call {
            id: text(&call["id"]),
            tool: text(&call["function"]["name"]),
            arguments: call["function"]["arguments"].clone(),
        })
        .collect()
}

fn result_message(call: &Call, result: &str) -> Value {
    json!({"role": "tool", "tool_name": call.tool, "tool_call_id": call.id, "content": result})
}

/// Shows an answer while it grows, now and then.
struct Preview<'a, 'b> {
    turn: &'a Turn<'b>,
    schema: &'a Value,
    text: String,
    shown: String,
    last: Instant,
}

impl<'a, 'b> Preview<'a, 'b> {
    fn new(turn: &'a Turn<'b>, schema: &'a Value) -> Self {
        Self { turn, schema, text: String::new(), shown: String::new(), last: Instant::now() }
    }

    async fn push(&mut self, text: &str) -> Result<(), LinkError> {
        self.text.push_str(text);
        if self.last.elapsed() < PREVIEW_EVERY {
            return Ok(());
        }
        self.last = Instant::now();
        let shown = calls::preview(&answer::visible(&self.text), self.schema);
        let (more, fresh) = match shown.strip_prefix(&*self.shown) {
            Some(more) => (more, self.shown.is_empty()),
            // Some words turned out to be a thought: what is left takes their place.
            None => (&*shown, true),
        };
        if more.is_empty() {
            return Ok(());
        }
        let text = more.to_owned();
        self.shown = shown;
        self.turn.report(Event::Text { text, fresh }).await
    }
}
