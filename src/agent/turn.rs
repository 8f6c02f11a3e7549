//! The loop of one turn: ask the model, run what it calls, until it answers.
//!
//! Every step is in the host's journal before the next one begins, so a turn
//! that was cut off goes on where it was: a call with a known result is not run
//! again, and one that was begun is given to the model as interrupted.

mod carry_out;
mod preview;
mod steering;
mod window;
mod words;

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::call::Call;
use super::calls::{self, Found};
use super::disk::Disk;
use super::limits::Limits;
use super::model::{self, ModelError, Reply};
use super::tools::Tools;
use super::transcript::{Ending, Transcript};
use super::{answer, context};
use crate::link::LinkError;
use crate::link::client::Link;
use crate::protocol::{Event, Failure, TurnOrder, Welcome};

use preview::Preview;
use window::Window;
use words::{ALL_THOUGHT, EMPTY, GO_ON, LAST, NO_TOOLS, QUOTED, REPEATED, TOOLLESS};

pub(super) use steering::Steering;

/// Answers of the model with tool calls in one turn.
const ROUNDS_MAX: u32 = 25;
/// Attempts to get something usable out of the model, in a row.
const REPAIRS_MAX: u32 = 2;

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
    window: Window,
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
        if progress.window.messages().last().is_some_and(|last| last["role"] == "assistant") {
            // An answer that was not the last word: what came after it is in the prompt now.
            progress.window.push(json!({"role": "user", "content": GO_ON}));
        }
        loop {
            self.take_steers(&mut progress);
            progress.window.fit();
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
            let reply = match self.understand(reply, &progress.window.messages()[1..], last) {
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
        let tools = context::size(std::slice::from_ref(self.tools.schema()));
        let window = Window::new(system, past, present, welcome.context, tools);
        let recent = Vec::new();
        Progress { window, round: 0, steers: 0, repairs: 0, toolless: false, recent }
    }

    /// Goes on with a model that cannot use tools, and says so.
    async fn do_without_tools(&self, progress: &mut Progress) -> Result<(), LinkError> {
        progress.toolless = true;
        progress.window.add_to_system(TOOLLESS);
        self.report(Event::Toolless).await
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
        let mut messages = Cow::Borrowed(progress.window.messages());
        if last {
            messages.to_mut().push(json!({"role": "user", "content": LAST}));
        }
        let mut preview = Preview::new((self.link, &self.order.turn), schema);
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
            () = self.cancel.cancelled() => return Err(TurnError::cancelled()),
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
                progress.window.push(json!({"role": "user", "content": content}));
                Ok(())
            }
            ModelError::Overflow(message) => {
                // A question that is too long on its own is nobody's to cut.
                if progress.window.give_way() { Ok(()) } else { failed(Failure::Model, message) }
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

    fn remember(&mut self, progress: &mut Progress, message: Value) {
        self.transcript.add(&self.order.turn, &message);
        progress.window.push(message);
    }

    /// Reports an event. A cancelled turn still reports: what happened, happened.
    async fn report(&self, event: Event) -> Result<(), LinkError> {
        self.link.report(&self.order.turn, &[event]).await
    }
}

impl TurnError {
    fn cancelled() -> Self {
        Self::Failed { reason: Failure::Cancelled, message: "cancelled".to_owned() }
    }
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
