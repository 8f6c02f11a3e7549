//! The conversation itself: what is said, what is shown of it, and how it ends.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::editor::{Prompt, Typed};
use super::history::History;
use super::screen::Screen;
use super::words::{queued, readable, tool};
use crate::cli::join::{control_error, one_line};
use crate::cli::serve::{Own, REST_MAX};
use crate::cli::{Context, VerbResult, tell, terminal};
use crate::clock::{Clock, SystemClock};
use crate::control::client::Client;
use crate::control::{ChatEnd, ChatEvent, ChatRequest, ControlError, PostOutcome};
use crate::error::{Error, Exit};
use crate::machine::HostContext;
use crate::name::GroupName;
use crate::store::MESSAGE_TEXT_MAX;

/// How often what is under way is shown anew.
const REFRESH_EVERY: Duration = Duration::from_millis(250);
/// Messages that wait for the answer under way.
const WAITING_MAX: usize = 16;
/// What a person is told about the keys.
const HELP: &str = "\
  Enter sends; Alt-Enter, or a backslash at the end, begins another line
  Up and Down recall what was typed before; Ctrl-R searches it
  Ctrl-C clears the line; on an empty line it stops the current answer
  /GROUP talks to another group; Tab completes
  Ctrl-D, /exit or /quit ends the conversation
";

/// A controller that somebody talks through.
pub(super) struct Talk {
    pub(super) context: Context,
    pub(super) client: Client,
    group: GroupName,
    groups: Vec<GroupName>,
    pub(super) interrupts: Signal,
    /// The controller, where it is in this process.
    pub(super) own: Option<Own>,
    screen: Screen,
    history: Option<History>,
    /// What was typed while an answer was under way.
    waiting: VecDeque<String>,
    /// Whether the end was typed while an answer was under way.
    leaving: bool,
    /// The posts shown since something was said: where a controller ended before it heard so, the
    /// next one gives them again, and a person sees them once.
    shown: BTreeSet<i64>,
    /// How long one message may wait for something that is not there yet; a conversation waits.
    wait: Option<Duration>,
    /// Since when something is not there that what was said needs.
    away: Option<Instant>,
    /// What was last worth knowing about an answer.
    noted: Option<String>,
}

/// Becomes ready with a Ctrl-C.
pub(super) async fn recv(interrupts: &mut Signal) {
    interrupts.recv().await;
}

/// What a line at the prompt asks for.
enum Command<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Leave,
    Turn(GroupName),
    Unknown,
}

impl Talk {
    pub(super) fn new(
        context: &Context,
        (client, own): (Client, Option<Own>),
        group: GroupName,
        interrupts: Signal,
        wait: Option<Duration>,
    ) -> Self {
        Self {
            context: context.clone(),
            client,
            group,
            groups: Vec::new(),
            interrupts,
            own,
            screen: Screen::new(context),
            history: None,
            waiting: VecDeque::new(),
            leaving: false,
            shown: BTreeSet::new(),
            wait,
            away: None,
            noted: None,
        }
    }

    /// Leaves the terminal as it was, and gives what was typed and never sent.
    pub(super) fn close(&mut self) -> Vec<String> {
        self.screen.close();
        self.waiting.drain(..).map(|text| one_line(&text)).collect()
    }

    /// Lets a controller of this process end: at once where somebody asked for it.
    pub(super) async fn end(mut self, outcome: &VerbResult) {
        let Some(own) = self.own.take() else { return };
        // What waits for something that is not there is no work to finish.
        let stopped = self.away.is_some()
            || matches!(outcome, Err(error) if error.exit() == Exit::Interrupted);
        let patience = if stopped { Duration::ZERO } else { REST_MAX };
        own.end(patience, recv(&mut self.interrupts), &self.context).await;
    }

    /// Says one thing, or has a conversation.
    pub(super) async fn talk(&mut self, said: Option<&str>, groups: Vec<GroupName>) -> VerbResult {
        self.groups = groups;
        match said {
            Some(message) => self.say(message).await,
            None => self.converse().await,
        }
    }

    /// Says one thing and gives the reply.
    async fn say(&mut self, message: &str) -> VerbResult {
        match self.ask(Some(message)).await? {
            ChatEnd::Answered => Ok(Exit::Ok),
            // The notice was shown, and says why.
            ChatEnd::GivenUp => Ok(Exit::Failed),
            ChatEnd::Cancelled => Err(Error::new(Exit::Interrupted, "stopped")),
            ChatEnd::Nothing => Err(Error::new(Exit::Failed, "the message was not answered")),
            ChatEnd::HandedOver => Err(handed_over()),
            ChatEnd::Failed { why } => Err(Error::new(Exit::Failed, why)),
        }
    }

    /// A conversation, until its end.
    async fn converse(&mut self) -> VerbResult {
        self.ask(None).await?;
        let mut lines = self.open_prompt();
        let edited = lines.is_none();
        let help = if edited { " `/help` lists the keys;" } else { "" };
        self.screen.say(&format!("Talking to {}.{help} Ctrl-D or `exit` ends.\n", self.group));
        self.prompt_again();
        loop {
            let line = match self.waiting.pop_front() {
                Some(line) => line,
                None if self.leaving => return Ok(Exit::Ok),
                None => match self.next_line(lines.as_mut()).await {
                    Typed::Line(line) => line,
                    Typed::End => {
                        self.leaving = true;
                        tell("\n");
                        continue;
                    }
                    Typed::Interrupt => {
                        self.screen.say("Ctrl-D or `exit` ends the conversation.\n");
                        continue;
                    }
                    Typed::Signal => {
                        tell("\n");
                        return Ok(Exit::Interrupted);
                    }
                },
            };
            match self.command(&line) {
                Command::Nothing => {}
                Command::Leave => return Ok(Exit::Ok),
                Command::Help => self.screen.say(HELP),
                Command::Unknown => self.screen.say("unknown command; `/help` lists them\n"),
                Command::Turn(group) => {
                    self.group = group;
                    self.screen.say(&format!("Talking to {}.\n", self.group));
                    self.prompt_again();
                    self.ask(None).await?;
                    continue;
                }
                Command::Say(text) if text.len() > MESSAGE_TEXT_MAX => {
                    let text = format!("not sent: it is longer than {MESSAGE_TEXT_MAX} bytes\n");
                    self.screen.say(&text);
                }
                Command::Say(text) => {
                    let text = text.replace("\\\n", "\n");
                    self.prompt_again();
                    self.exchange(&text).await?;
                    continue;
                }
            }
            self.prompt_again();
        }
    }

    /// Says one thing of a conversation, and shows what comes of it.
    async fn exchange(&mut self, text: &str) -> Result<(), Error> {
        match self.ask(Some(text)).await? {
            ChatEnd::Cancelled => self.screen.say("stopped\n"),
            ChatEnd::HandedOver => return Err(handed_over()),
            ChatEnd::Failed { why } => return Err(Error::new(Exit::Failed, why)),
            ChatEnd::Answered | ChatEnd::GivenUp | ChatEnd::Nothing => {}
        }
        Ok(())
    }

    /// Opens a prompt where the terminal has the means, else gives the lines of stdin.
    fn open_prompt(&mut self) -> Option<mpsc::Receiver<String>> {
        let able = io::stdin().is_terminal() && io::stdout().is_terminal() && terminal::redraws();
        if !able {
            return Some(read_lines());
        }
        let mut entries = Vec::new();
        if let Ok(ground) = HostContext::of_project(self.context.project()) {
            let project = &ground.project;
            match History::open(&project.data(), project.owner()) {
                Ok((history, found)) => (self.history, entries) = (Some(history), found),
                Err(error) => {
                    self.context.note(&format!("note: no history of what was typed: {error}\n"));
                }
            }
        }
        let commands = ["/exit", "/help", "/quit"].map(ToOwned::to_owned);
        let groups = self.groups.iter().map(|group| format!("/{group}"));
        let words = commands.into_iter().chain(groups).collect();
        match Prompt::open(entries, words, self.context.color_stdout) {
            Ok(prompt) => {
                self.screen.open(prompt);
                None
            }
            Err(error) => {
                tracing::debug!(%error, "lines cannot be edited at this terminal");
                Some(read_lines())
            }
        }
    }

    fn prompt(&self) -> String {
        if self.groups.len() > 1 { format!("{}> ", self.group) } else { "> ".to_owned() }
    }

    /// Has the next line read.
    fn prompt_again(&mut self) {
        let text = self.prompt();
        if let Some(prompt) = self.screen.prompt() {
            prompt.ask(&text);
        }
    }

    async fn next_line(&mut self, lines: Option<&mut mpsc::Receiver<String>>) -> Typed {
        let typed = match (self.screen.prompt(), lines) {
            (Some(prompt), _) => tokio::select! {
                typed = prompt.typed() => typed,
                _ = self.interrupts.recv() => Typed::Signal,
            },
            (None, Some(lines)) => {
                tell("> ");
                tokio::select! {
                    line = lines.recv() => line.map_or(Typed::End, Typed::Line),
                    _ = self.interrupts.recv() => Typed::Signal,
                }
            }
            (None, None) => Typed::End,
        };
        if let (Typed::Line(line), Some(history)) = (&typed, &mut self.history)
            && !line.trim().is_empty()
        {
            history.add(line);
        }
        typed
    }

    fn command<'a>(&self, line: &'a str) -> Command<'a> {
        let word = line.trim();
        match word {
            "" => return Command::Nothing,
            "exit" | "quit" | "/exit" | "/quit" => return Command::Leave,
            "/help" => return Command::Help,
            _ => {}
        }
        match word.strip_prefix('/') {
            // A path or a sentence is meant for the agent.
            Some(name) if !name.contains(|c: char| c.is_whitespace() || c == '/') => {
                let group = self.groups.iter().find(|group| group.as_str() == name);
                group.map_or(Command::Unknown, |group| Command::Turn(group.clone()))
            }
            _ => Command::Say(line),
        }
    }

    /// Takes what is typed while an answer is under way. Says whether that answer is to be stopped.
    fn typed_meanwhile(&mut self, typed: Typed) -> bool {
        match typed {
            Typed::Interrupt | Typed::Signal => return true,
            Typed::End => {
                self.leaving = true;
                self.screen.say("\nleaving after this answer; Ctrl-C stops it\n");
            }
            Typed::Line(line) => {
                if let Some(history) = &mut self.history
                    && !line.trim().is_empty()
                {
                    history.add(&line);
                }
                match self.command(&line) {
                    Command::Nothing => {}
                    Command::Help => self.screen.say(HELP),
                    Command::Leave => {
                        self.leaving = true;
                        self.screen.say("leaving after this answer; Ctrl-C stops it\n");
                        // Nothing more is read.
                        return false;
                    }
                    _ if self.waiting.len() >= WAITING_MAX => {
                        self.screen.say("not sent: too many messages wait\n");
                    }
                    _ => {
                        self.screen.say("  (sent after this answer)\n");
                        self.waiting.push_back(line);
                    }
                }
                self.prompt_again();
            }
        }
        false
    }

    /// Says something, or nothing, and shows what comes until it is over; through another
    /// controller, where this one makes way.
    async fn ask(&mut self, text: Option<&str>) -> Result<ChatEnd, Error> {
        self.shown.clear();
        self.away = None;
        if text.is_some() {
            self.screen.doing("sending");
        }
        let mut request = ChatRequest {
            group: self.group.clone(),
            text: text.map(ToOwned::to_owned),
            id: SystemClock.message_id(),
            said: None,
        };
        loop {
            let (end, said) = self.follow_reply(&request).await?;
            let over = matches!(end, ChatEnd::HandedOver) && (said.is_some() || text.is_some());
            if over {
                self.screen.doing("waiting for the controller");
            }
            if !over || !self.join_successor().await? {
                self.screen.end_line();
                return Ok(end);
            }
            if said.is_some() {
                request = ChatRequest { said, text: None, ..request };
            }
        }
    }

    /// Follows one request to its end; gives the number of what was said, once it is stored.
    async fn follow_reply(
        &mut self,
        request: &ChatRequest,
    ) -> Result<(ChatEnd, Option<i64>), Error> {
        let mut said = request.said;
        let failed = |error: ControlError| control_error("talk through the controller", &error);
        let events = match self.client.chat(request).await {
            Err(ControlError::Ended | ControlError::Broken(_)) => {
                return Ok((ChatEnd::HandedOver, said));
            }
            events => events.map_err(failed)?,
        };
        let mut events = std::pin::pin!(events);
        let mut tick = tokio::time::interval(REFRESH_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut stopping, mut signalled) = (false, false);
        loop {
            let leaving = self.leaving;
            let stop = tokio::select! {
                event = events.next() => match event {
                    Some(Ok(ChatEvent::End { end })) => {
                        return match (stopping, end) {
                            // There was nothing left to stop: it ends the conversation, as at the
                            // prompt. The key alone does not.
                            (true, ChatEnd::Answered | ChatEnd::GivenUp | ChatEnd::Nothing)
                                if signalled =>
                            {
                                Err(Error::new(Exit::Interrupted, "stopped"))
                            }
                            (_, end) => Ok((end, said)),
                        };
                    }
                    Some(Ok(ChatEvent::Stored { seq })) => {
                        said = Some(seq);
                        false
                    }
                    Some(Ok(ChatEvent::Away { why })) => {
                        self.wait_for(&why);
                        false
                    }
                    // An attempt to reach what is away; only what follows says that it is there.
                    Some(Ok(ChatEvent::Waking | ChatEvent::Thinking | ChatEvent::Queued { .. }))
                        if self.away.is_some() => false,
                    Some(Ok(event)) => {
                        self.away = None;
                        self.show(event).await?;
                        false
                    }
                    // A controller that ended or was killed: whatever was stored is gone on with.
                    Some(Err(ControlError::Ended | ControlError::Broken(_))) => {
                        return Ok((ChatEnd::HandedOver, said));
                    }
                    Some(Err(error)) => return Err(failed(error)),
                    None => return Ok((ChatEnd::HandedOver, said)),
                },
                () = past(self.given_up_at()) => return Err(waited_enough(self.wait, said)),
                typed = typed(self.screen.prompt()), if !leaving => self.typed_meanwhile(typed),
                _ = tick.tick() => {
                    self.screen.refresh();
                    false
                }
                _ = self.interrupts.recv() => {
                    signalled = true;
                    true
                }
            };
            if !stop {
                continue;
            }
            if stopping {
                // What was stopped does not come back at the next start.
                if let Some(own) = &self.own {
                    own.shutdown.stop(&self.group).await;
                }
                return Err(Error::new(Exit::Interrupted, "stopped at once"));
            }
            self.screen.say("stopping; Ctrl-C again stops at once\n");
            for text in self.waiting.drain(..) {
                self.screen.say(&format!("not sent: {}\n", one_line(&text)));
            }
            stopping = true;
            let (client, group) = (self.client.clone(), self.group.clone());
            tokio::spawn(async move { client.cancel(&group).await });
        }
    }

    async fn show(&mut self, event: ChatEvent) -> Result<(), Error> {
        let screen = &mut self.screen;
        match event {
            ChatEvent::Queued { behind } => screen.doing(queued(&behind, &self.group)),
            ChatEvent::Waking => screen.doing(format!("waking {}", self.group)),
            ChatEvent::Thinking => screen.doing("thinking"),
            ChatEvent::Text { text, fresh } => screen.text(&text, fresh),
            ChatEvent::Tool { name, arguments } => {
                let tool = tool(&name, &arguments);
                screen.progress(&format!("· {tool}"));
                screen.doing(tool);
            }
            ChatEvent::Retry { why, wait } => {
                let again = match wait.as_secs() {
                    0 => "trying again".to_owned(),
                    seconds => format!("trying again in {seconds} s"),
                };
                screen.doing("waiting to try again");
                screen.say(&format!("  {}; {again}\n", readable(&why)));
            }
            ChatEvent::Struck { limit } => {
                screen.say(&format!("  {} reached\n", one_line(&limit)));
            }
            ChatEvent::Note { text } => {
                // In a conversation, once.
                if self.noted.as_ref() != Some(&text) {
                    screen.say(&format!("  {}\n", one_line(&text)));
                    self.noted = Some(text);
                }
            }
            ChatEvent::Waits { what } => {
                let what = format!("waiting for {}", one_line(&what));
                screen.progress(&what);
                screen.doing(what);
            }
            ChatEvent::Post { id, reply, text, uncertain, earlier } => {
                let handed = match earlier {
                    _ if self.shown.contains(&id) => Ok(()),
                    Some(asked) => {
                        screen.say(&earlier_words(&text, &asked, uncertain));
                        Ok(())
                    }
                    None if reply => screen.result(&format!("{}\n", readable(&text))),
                    None => {
                        screen.say(&format!("{}\n", readable(&text)));
                        Ok(())
                    }
                };
                self.acknowledge(id, handed).await?;
            }
            ChatEvent::Back => screen.doing("thinking"),
            ChatEvent::Stored { .. } | ChatEvent::Away { .. } | ChatEvent::End { .. } => {}
        }
        Ok(())
    }

    /// Says what is not there yet.
    fn wait_for(&mut self, why: &str) {
        let why = one_line(why);
        self.screen.say(&format!("  {why}; your message is kept and answered when it is\n"));
        self.screen.doing("waiting");
        self.away.get_or_insert_with(Instant::now);
    }

    /// When one message has waited long enough for what is not there.
    fn given_up_at(&self) -> Option<Instant> {
        Some(self.away? + self.wait?)
    }

    async fn acknowledge(&mut self, id: i64, handed: io::Result<()>) -> Result<(), Error> {
        let outcome = match &handed {
            Ok(()) => {
                self.shown.insert(id);
                PostOutcome::Shown
            }
            Err(error) => PostOutcome::NotShown { why: error.to_string() },
        };
        let told = self.client.acknowledge(id, &outcome).await;
        if let Err(error) = handed {
            return Err(Error::failed("write the reply to stdout", &error)
                .hinted("it is kept, and the next `babybot chat` gives it"));
        }
        if let Err(error) = told {
            tracing::debug!(%error, "cannot record that a reply was shown");
        }
        Ok(())
    }
}

/// Becomes ready at this moment, or never.
async fn past(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The end of a wait for what is not there. `said` is the message, once it is stored.
fn waited_enough(wait: Option<Duration>, said: Option<i64>) -> Error {
    let seconds = wait.unwrap_or_default().as_secs();
    match said {
        Some(_) => {
            Error::new(Exit::Failed, format!("no answer within {seconds} s; your message is kept"))
                .hinted("the next `babybot chat` or `babybot up` answers it")
        }
        None => Error::new(
            Exit::Failed,
            format!("no answer within {seconds} s; your message was not sent"),
        ),
    }
}

/// What a person does next; never, where nobody can type.
async fn typed(prompt: Option<&mut Prompt>) -> Typed {
    match prompt {
        Some(prompt) => prompt.typed().await,
        None => std::future::pending().await,
    }
}

fn handed_over() -> Error {
    Error::new(Exit::Failed, "the controller stopped before it answered")
        .hinted("your message is kept; the next `babybot chat` or `babybot up` answers it")
}

/// A reply to something that was said before.
fn earlier_words(text: &str, asked: &str, uncertain: bool) -> String {
    /// What is shown of the message that is answered, in columns.
    const ASKED_MAX: usize = 60;
    let asked = terminal::cut(&one_line(asked.lines().next().unwrap_or_default()), ASKED_MAX);
    let again = if uncertain { " (you may have seen it)" } else { "" };
    format!("an earlier answer{again}, to “{asked}”: {}\n", readable(text))
}

/// The lines of stdin, read where waiting for them holds up nothing else.
fn read_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
