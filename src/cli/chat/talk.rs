//! The conversation itself: what is said, what is heard of it, and how it ends.

mod prompt;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::Instant;

use super::editor::Typed;
use super::history::History;
use super::link::{Heard, Link};
use super::screen::Screen;
use super::typing::{Command, HELP, Lines, typed};
use crate::cli::join::{control_error, one_line};
use crate::cli::serve::{Own, REST_MAX};
use crate::cli::{Context, VerbResult, tell};
use crate::clock::{Clock as _, SystemClock, reached};
use crate::control::{ChatEnd, ChatEvent, Outcome, Said};
use crate::error::{Error, Exit};
use crate::name::{GroupName, MessageId};
use crate::store::MESSAGE_TEXT_MAX;

/// How often what is under way is shown anew.
const REFRESH_EVERY: Duration = Duration::from_millis(250);

/// A controller that somebody talks through.
pub(super) struct Talk {
    pub(super) context: Context,
    pub(super) link: Link,
    pub(super) groups: Vec<GroupName>,
    pub(super) interrupts: Signal,
    /// The controller, where it is in this process.
    pub(super) own: Option<Own>,
    pub(super) screen: Screen,
    pub(super) history: Option<History>,
    /// Whether the end was typed while an answer was under way.
    leaving: bool,
    /// Whether Ctrl-C was pressed since something was said.
    stopping: bool,
    /// Whether that came as a signal, and not as a key at the prompt.
    signalled: bool,
    /// The posts shown: where a controller ended before it heard so, the next one gives them again,
    /// and a person sees them once.
    pub(super) shown: BTreeSet<i64>,
    /// What was said here and was shown a reply or a notice.
    pub(super) answered: BTreeSet<MessageId>,
    /// How long one message may wait for something that is not there yet; a conversation waits.
    pub(super) wait: Option<Duration>,
    /// Since when something is not there that what was said needs.
    pub(super) away: Option<Instant>,
    /// The last thing that was said to be missing.
    pub(super) missing: Option<String>,
    /// Since when the agent is being started.
    pub(super) waking: Option<Instant>,
    /// What was last worth knowing about an answer.
    pub(super) noted: Option<String>,
}

/// Becomes ready with a Ctrl-C.
pub(super) async fn recv(interrupts: &mut Signal) {
    interrupts.recv().await;
}

/// What came next in a conversation.
enum Step {
    /// Something that was taken care of.
    Went,
    /// Messages are over; whether they were answered here.
    Over(Outcome, bool),
    /// Something was typed.
    Typed(Typed),
}

impl Talk {
    pub(super) fn new(
        context: &Context,
        link: Link,
        own: Option<Own>,
        interrupts: Signal,
        wait: Option<Duration>,
    ) -> Self {
        Self {
            context: context.clone(),
            link,
            groups: Vec::new(),
            interrupts,
            own,
            screen: Screen::new(context),
            history: None,
            leaving: false,
            stopping: false,
            signalled: false,
            shown: BTreeSet::new(),
            answered: BTreeSet::new(),
            wait,
            away: None,
            missing: None,
            waking: None,
            noted: None,
        }
    }

    /// The group that is talked to.
    pub(super) fn group(&self) -> &GroupName {
        &self.link.request.group
    }

    /// Leaves the terminal as it was; gives what was said and is not known to be stored, and whether
    /// something is that is not over.
    pub(super) fn close(&mut self) -> (Vec<String>, bool) {
        self.screen.close();
        let unsent = self.link.unsent().iter().map(|text| one_line(text)).collect();
        (unsent, self.link.has_kept())
    }

    /// Lets a controller of this process end: at once where somebody asked for it.
    pub(super) async fn end(mut self, outcome: &VerbResult) {
        let Some(own) = self.own.take() else { return };
        let stopped = matches!(outcome, Ok(Exit::Interrupted))
            || matches!(outcome, Err(error) if error.exit() == Exit::Interrupted);
        let patience = if stopped { Duration::ZERO } else { REST_MAX };
        own.end(patience, recv(&mut self.interrupts), &self.context).await;
    }

    /// Says one thing, or has a conversation.
    pub(super) async fn talk(
        &mut self,
        said: Option<(Said, bool)>,
        groups: Vec<GroupName>,
    ) -> VerbResult {
        self.groups = groups;
        match said {
            Some((said, kept)) => self.say_once(said, kept).await,
            None => self.converse().await,
        }
    }

    /// Says one thing and gives the reply.
    async fn say_once(&mut self, said: Said, kept: bool) -> VerbResult {
        self.screen.doing("sending");
        self.link.say(said, kept);
        loop {
            let Step::Over(outcome, here) = self.step(None).await? else { continue };
            self.screen.end_line();
            return match outcome {
                Outcome::Cancelled => Err(Error::new(Exit::Interrupted, "stopped")),
                Outcome::Answered if here => Ok(Exit::Ok),
                // The notice was shown, and says why.
                Outcome::GivenUp if here => Ok(Exit::Failed),
                Outcome::Answered | Outcome::GivenUp => {
                    Err(Error::new(Exit::Failed, "the reply was shown in another conversation"))
                }
                Outcome::Parked => Err(parked()),
            };
        }
    }

    /// A conversation, until its end.
    async fn converse(&mut self) -> VerbResult {
        let mut lines = self.open_prompt();
        let edited = matches!(lines, Lines::Prompt);
        let help = if edited { " `/help` lists the keys;" } else { "" };
        self.screen.say(&format!("Talking to {}.{help} Ctrl-D or `exit` ends.\n", self.group()));
        self.prompt_again();
        while !(self.leaving && self.link.is_at_rest()) {
            match self.step(Some(&mut lines)).await? {
                Step::Went => {}
                Step::Over(outcome, _) => {
                    if self.link.is_at_rest() {
                        self.screen.end_line();
                    }
                    match outcome {
                        Outcome::Cancelled => self.screen.say("stopped\n"),
                        Outcome::Parked => self.screen.say(&format!("{}\n", parked())),
                        Outcome::Answered | Outcome::GivenUp => {}
                    }
                }
                Step::Typed(Typed::Signal) => {
                    tell("\n");
                    return Ok(Exit::Interrupted);
                }
                Step::Typed(Typed::Interrupt) => {
                    self.screen.say("Ctrl-D or `exit` ends the conversation.\n");
                    self.prompt_again();
                }
                Step::Typed(Typed::End) => self.leave(),
                Step::Typed(Typed::Line(line)) => self.obey(&line),
            }
        }
        Ok(Exit::Ok)
    }

    fn leave(&mut self) {
        self.leaving = true;
        if self.link.is_at_rest() {
            tell("\n");
        } else {
            self.screen.say("\nleaving after this answer; Ctrl-C stops it\n");
        }
    }

    /// Does what a line asks for.
    fn obey(&mut self, line: &str) {
        self.remember(line);
        match self.command(line) {
            Command::Nothing => {}
            Command::Leave if self.link.is_at_rest() => self.leaving = true,
            Command::Leave => return self.leave(),
            Command::Help => self.screen.say(HELP),
            Command::Unknown => self.screen.say("unknown command; `/help` lists them\n"),
            Command::Turn(_) if !self.link.is_at_rest() => {
                self.screen.say("wait for this answer, or stop it with Ctrl-C\n");
            }
            Command::Turn(group) => {
                self.link.turn_to(&group);
                self.screen.say(&format!("Talking to {group}.\n"));
            }
            Command::Say(text) if text.len() > MESSAGE_TEXT_MAX => {
                let text = format!("not sent: it is longer than {MESSAGE_TEXT_MAX} bytes\n");
                self.screen.say(&text);
            }
            Command::Say(text) => {
                let (id, text) = (SystemClock.message_id(), text.replace("\\\n", "\n"));
                if self.link.is_at_rest() {
                    self.away = None;
                    self.screen.doing("sending");
                }
                (self.stopping, self.signalled) = (false, false);
                self.link.say(Said { id, text }, false);
            }
        }
        if !self.leaving {
            self.prompt_again();
        }
    }

    /// Takes what comes next: from the controller, from the keyboard, or with time.
    async fn step(&mut self, lines: Option<&mut Lines>) -> Result<Step, Error> {
        let (leaving, given_up, busy) = (self.leaving, self.given_up_at(), !self.link.is_at_rest());
        let typed = tokio::select! {
            heard = self.link.next() => return self.hear(heard).await,
            () = reached(given_up) => return Err(waited_enough(self.wait, self.link.has_kept())),
            typed = typed(self.screen.prompt(), lines), if !leaving => typed,
            () = tokio::time::sleep(REFRESH_EVERY) => {
                self.screen.refresh();
                return Ok(Step::Went);
            }
            _ = self.interrupts.recv() => Typed::Signal,
        };
        match typed {
            Typed::Interrupt | Typed::Signal if busy => {
                self.stop(matches!(typed, Typed::Signal)).await?;
                if !self.leaving {
                    self.prompt_again();
                }
                Ok(Step::Went)
            }
            typed => Ok(Step::Typed(typed)),
        }
    }

    /// Stops what was said here: at once, where it is asked for again.
    async fn stop(&mut self, signalled: bool) -> Result<(), Error> {
        if self.stopping {
            // What was stopped does not come back at the next start.
            if let Some(own) = &self.own {
                own.shutdown.stop(&self.link.request.thread).await;
            }
            return Err(Error::new(Exit::Interrupted, "stopped at once"));
        }
        (self.stopping, self.signalled) = (true, signalled);
        self.screen.say("stopping; Ctrl-C again stops at once\n");
        self.link.stop();
        Ok(())
    }

    /// Takes what came over the link.
    async fn hear(&mut self, heard: Heard) -> Result<Step, Error> {
        let event = match heard {
            Heard::Event(event) => event,
            Heard::Stored => return Ok(Step::Went),
            Heard::Refused { text, why } => {
                let why = one_line(&why);
                if self.wait.is_some() {
                    return Err(Error::new(Exit::Failed, format!("not sent: {why}")));
                }
                if self.link.is_at_rest() {
                    self.screen.end_line();
                }
                self.screen.say(&format!("not sent: {}: {why}\n", one_line(&text)));
                return Ok(Step::Went);
            }
            Heard::Lost => return self.follow_on().await,
            Heard::Broken(error) => {
                return Err(control_error("talk through the controller", &error));
            }
        };
        match event {
            ChatEvent::End { end: ChatEnd::HandedOver } => return self.follow_on().await,
            ChatEvent::End { end: ChatEnd::Failed { why } } => {
                return Err(Error::new(Exit::Failed, why));
            }
            ChatEvent::Over { messages, outcome } => return self.conclude(&messages, outcome),
            ChatEvent::Away { .. } if self.link.is_at_rest() => {}
            ChatEvent::Away { why } => self.wait_for(&why),
            ChatEvent::Waking if self.away.is_none() => {
                self.waking.get_or_insert_with(Instant::now);
                self.show(ChatEvent::Waking).await?;
            }
            // An attempt to reach what is away; only what follows says that it is there.
            ChatEvent::Waking | ChatEvent::Thinking | ChatEvent::Queued { .. }
                if self.away.is_some() => {}
            // Nothing of this conversation is under way.
            ChatEvent::Joined => {}
            event => {
                if !matches!(event, ChatEvent::Post { .. }) || self.link.is_at_rest() {
                    (self.away, self.waking) = (None, None);
                }
                self.show(event).await?;
            }
        }
        Ok(Step::Went)
    }

    /// Takes note that messages are over.
    fn conclude(&mut self, messages: &[MessageId], outcome: Outcome) -> Result<Step, Error> {
        if !self.link.is_of(messages) {
            return Ok(Step::Went);
        }
        let here = messages.iter().any(|id| self.answered.contains(id));
        self.link.conclude(messages);
        if !self.link.is_at_rest() {
            return Ok(Step::Over(outcome, here));
        }
        (self.away, self.waking, self.missing) = (None, None, None);
        let stopping = std::mem::take(&mut self.stopping) && std::mem::take(&mut self.signalled);
        if stopping && outcome != Outcome::Cancelled {
            // There was nothing left to stop: it ends the conversation, as at the prompt. The key
            // alone does not.
            return Err(Error::new(Exit::Interrupted, "stopped"));
        }
        Ok(Step::Over(outcome, here))
    }

    /// Goes on through the controller that follows.
    async fn follow_on(&mut self) -> Result<Step, Error> {
        if !self.link.is_at_rest() {
            self.screen.doing("waiting for the controller");
        }
        if self.join_successor().await? { Ok(Step::Went) } else { Err(self.handed_over()) }
    }

    fn handed_over(&self) -> Error {
        let error = Error::new(Exit::Failed, "the controller stopped before it answered");
        if self.link.has_kept() {
            return error.hinted(
                "your message is kept; the next `babybot chat` or `babybot up` answers it",
            );
        }
        error
    }
}

/// The end of a wait for what is not there.
fn waited_enough(wait: Option<Duration>, kept: bool) -> Error {
    let seconds = wait.unwrap_or_default().as_secs();
    let what = format!("no answer within {seconds} s; your message");
    match kept {
        true => Error::new(Exit::Failed, format!("{what} is kept"))
            .hinted("the next `babybot chat` or `babybot up` answers it"),
        false => Error::new(Exit::Failed, format!("{what} was not sent")),
    }
}

fn parked() -> Error {
    Error::new(Exit::Failed, "there is a reply, and it could not be shown")
        .hinted("run `babybot outbox list` to see why")
}
