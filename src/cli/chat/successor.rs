//! What a conversation does when its controller ends: it joins the next one, or becomes it.

use std::time::Duration;

use tokio::time::Instant;

use super::talk::{Talk, recv};
use crate::cli::join::join;
use crate::cli::serve::{self, REST_MAX};
use crate::error::{Error, Exit};
use crate::machine::HostContext;
use crate::machine::project_error;

/// How long whoever makes way for another controller waits for that one.
const SUCCESSOR_MAX: Duration = Duration::from_secs(30);
/// How long a controller that was made way for may take to be there, until nobody comes.
const COMING: Duration = Duration::from_secs(5);
/// How often is looked whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Talk {
    /// Waits for the controller that takes over, and joins it. Says whether there is one.
    pub(super) async fn join_successor(&mut self) -> Result<bool, Error> {
        // Its own controller makes way: its lock has to go first.
        let asked = self.own.is_some();
        if let Some(own) = self.own.take() {
            own.end(REST_MAX, recv(&mut self.interrupts), &self.context).await;
        }
        let ground = HostContext::of_project(self.context.project())?;
        let until = Instant::now() + SUCCESSOR_MAX;
        // Whoever asked it to needs a moment to take over.
        let free = Instant::now() + if asked { COMING } else { Duration::ZERO };
        while Instant::now() < until {
            // While one goes and another comes, what there is may close at once.
            let found = join(&self.context).await;
            match found.unwrap_or_else(|_| (ground.project.clone(), None)) {
                (_, Some(client)) if !client.status().await.is_ok_and(|now| now.draining) => {
                    self.link.resume(client);
                    return Ok(true);
                }
                // Nobody took over: then it is for whoever waits.
                (project, None)
                    if Instant::now() >= free
                        && project.lock_holder().map_err(project_error)?.is_none()
                        && self.become_successor().await? =>
                {
                    return Ok(true);
                }
                _ => {}
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.interrupts.recv() => {
                    return Err(Error::new(Exit::Interrupted, "stopped"));
                }
            }
        }
        Ok(false)
    }

    /// Becomes the controller that nobody else became. Says whether it did.
    async fn become_successor(&mut self) -> Result<bool, Error> {
        let ground = HostContext::of_project(self.context.project())?;
        let (lock, store, applied) = match serve::open_instance("chat", &ground).await {
            Ok(taken) => taken,
            Err(error) if error.exit() == Exit::Locked => return Ok(false),
            Err(error) => return Err(error),
        };
        let (client, own) =
            serve::serve_shortly(ground, lock, store, applied, &self.context).await?;
        self.link.resume(client);
        self.own = Some(own);
        Ok(true)
    }
}
