//! What a conversation is shown of what happens.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::talk::Talk;
use super::words::{queued, readable, tool};
use crate::cli::join::one_line;
use crate::cli::terminal;
use crate::control::{ChatEvent, PostOutcome};
use crate::error::Error;

/// How long an agent may take to start before what it needs counts as away.
const WAKING_MAX: Duration = Duration::from_secs(10);

impl Talk {
    pub(super) async fn show(&mut self, event: ChatEvent) -> Result<(), Error> {
        let (screen, group) = (&mut self.screen, &self.link.request.group);
        match event {
            ChatEvent::Queued { behind } => screen.doing(queued(&behind, group)),
            ChatEvent::Waking => screen.doing(format!("waking {group}")),
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
            ChatEvent::Post { id, reply, text, uncertain, answers, late } => {
                let ours = self.link.is_of(&answers);
                let handed = match late {
                    _ if self.shown.contains(&id) => Ok(()),
                    Some(asked) => {
                        screen.say(&late_words(&text, &asked, uncertain));
                        Ok(())
                    }
                    None if reply && ours => screen.result(&text),
                    None => {
                        screen.say(&format!("{}\n", readable(&text)));
                        Ok(())
                    }
                };
                if ours && handed.is_ok() {
                    self.answered.extend(answers);
                }
                self.acknowledge(id, handed).await?;
            }
            ChatEvent::Back => screen.doing("thinking"),
            ChatEvent::Joined
            | ChatEvent::Away { .. }
            | ChatEvent::Over { .. }
            | ChatEvent::End { .. } => {}
        }
        Ok(())
    }

    /// Says what is not there yet.
    pub(super) fn wait_for(&mut self, why: &str) {
        let why = one_line(why);
        if self.missing.as_ref() != Some(&why) {
            self.screen.say(&format!("  {why}; your message is kept and answered later\n"));
            self.missing = Some(why);
        }
        self.screen.doing("waiting");
        self.away.get_or_insert_with(Instant::now);
    }

    /// When one message has waited long enough for what is not there.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        // An engine that hangs is away, though nobody could tell yet.
        let late = self.waking.map(|since| since + WAKING_MAX);
        Some(self.away.into_iter().chain(late).min()? + self.wait?)
    }

    async fn acknowledge(&mut self, id: i64, handed: io::Result<()>) -> Result<(), Error> {
        let outcome = match &handed {
            Ok(()) => {
                self.shown.insert(id);
                PostOutcome::Shown
            }
            Err(error) => PostOutcome::NotShown { why: error.to_string() },
        };
        let told = self.link.client.acknowledge(id, &outcome).await;
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

/// A reply to something that was said before.
fn late_words(text: &str, asked: &str, uncertain: bool) -> String {
    /// What is shown of the message that is answered, in columns.
    const ASKED_MAX: usize = 60;
    let asked = terminal::cut(&one_line(asked.lines().next().unwrap_or_default()), ASKED_MAX);
    let again = if uncertain { " (you may have seen it)" } else { "" };
    format!("an earlier answer{again}, to “{asked}”: {}\n", readable(text))
}
