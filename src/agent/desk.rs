//! The state of an agent between turns.

use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::disk::Disk;
use super::error::AgentError;
use super::limits::Limits;
use super::start;
use super::tools::{Folders, Tools};
use super::transcript::Ending;
use super::transcripts::Transcripts;
use super::turn::{Steering, Turn, TurnError};
use crate::link::client::Link;
use crate::protocol::{Event, Failure, TurnOrder, Welcome};

/// The state of an agent between turns: the last welcome, and everything that is made from it.
pub(super) struct Desk<'a> {
    link: &'a Link,
    welcome: Welcome,
    folders: Folders,
    children: Children,
    tools: Tools,
    transcripts: Transcripts,
    limits: Limits,
    disk: Disk,
}

impl<'a> Desk<'a> {
    /// The desk of an agent that was just welcomed.
    pub(super) fn new(
        link: &'a Link,
        welcome: Welcome,
        children: Children,
    ) -> Result<Self, AgentError> {
        start::limit_files(welcome.disk.limit);
        let disk = Disk::new(&welcome.disk);
        let folders = Folders::find().map_err(|error| AgentError::Start(error.to_string()))?;
        let tools = Tools::new(&folders, &welcome, &children, link);
        let transcripts = Transcripts::new(&folders.home);
        let limits = if start::is_first() { Limits::of_sandbox() } else { Limits::none() };
        Ok(Self { link, welcome, folders, children, tools, transcripts, limits, disk })
    }

    /// Goes on under another welcome.
    pub(super) fn adopt_welcome(&mut self, welcome: Welcome) {
        start::limit_files(welcome.disk.limit);
        self.disk = Disk::new(&welcome.disk);
        self.tools = Tools::new(&self.folders, &welcome, &self.children, self.link);
        self.welcome = welcome;
    }

    /// Runs one turn and reports its end.
    pub(super) async fn answer(
        &mut self,
        order: &TurnOrder,
        (steering, cancel): (Steering, CancellationToken),
    ) -> Result<(), AgentError> {
        let Self { link, welcome, folders, tools, transcripts, limits, disk, .. } = self;
        let (limits, workdir) = ((&*limits, &*disk), &*folders.workdir);
        let transcript = transcripts.of(&order.session);
        let mut turn =
            Turn { link, welcome, workdir, tools, transcript, limits, order, steering, cancel };
        match turn.run().await {
            Ok(()) => Ok(()),
            Err(TurnError::Link(error)) => Err(error.into()),
            Err(TurnError::Failed { reason, message }) => {
                turn.transcript.end(&order.turn, Ending::from(reason));
                let failed = Event::Failed { reason, message };
                link.report(&order.turn, &[failed]).await?;
                Ok(())
            }
        }
    }
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}
