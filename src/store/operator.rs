//! The operator's view of the outbox: what did not go out, and what is to become of it.

use rusqlite::named_params;

use super::error::{CommandError, StoreError};
use super::open::{Reader, Store};
use super::outbox::{Post, find, post};
use super::state::{OutboxId, PostState};

const OPEN: &str = "SELECT * FROM outbox
    WHERE state IN ('pending', 'sending', 'uncertain') OR state = 'failed'
    ORDER BY id DESC LIMIT :limit";

const IN_STATE: &str = "SELECT * FROM outbox WHERE state = :state ORDER BY id DESC LIMIT :limit";

const RETRY: &str = "UPDATE outbox SET state = 'pending', attempts = 0, interruptions = 0,
        next_attempt = NULL
    WHERE id = :id";

const DROP: &str = "UPDATE outbox SET state = 'failed', next_attempt = NULL,
        failure = 'dropped by the operator'
    WHERE id = :id";

impl Reader {
    /// The entries in a state, or all that are not delivered, failed ones included; newest first, at
    /// most `limit` of them.
    ///
    /// # Errors
    /// They could not be read.
    pub fn outbox(&self, state: Option<PostState>, limit: u32) -> Result<Vec<Post>, StoreError> {
        self.ask_current(|connection| {
            let posts: Result<Vec<Post>, _> = match state {
                Some(state) => connection
                    .prepare_cached(IN_STATE)?
                    .query_map(named_params! { ":state": state.word(), ":limit": limit }, post)?
                    .collect(),
                None => connection
                    .prepare_cached(OPEN)?
                    .query_map(named_params! { ":limit": limit }, post)?
                    .collect(),
            };
            Ok(posts?)
        })
    }
}

impl Store {
    /// Has an entry sent again that has failed or waits for its next attempt, as if it had never
    /// been tried.
    ///
    /// # Errors
    /// There is no such entry, or it is delivered or being sent.
    pub async fn retry_post(&self, id: OutboxId) -> Result<(), StoreError> {
        self.decide(id, RETRY, PostState::Pending).await?;
        self.tell_of_post();
        Ok(())
    }

    /// Gives an entry up that is not being sent.
    ///
    /// # Errors
    /// There is no such entry, or it is delivered or being sent.
    pub async fn drop_post(&self, id: OutboxId) -> Result<(), StoreError> {
        self.decide(id, DROP, PostState::Failed).await
    }

    async fn decide(
        &self,
        id: OutboxId,
        statement: &'static str,
        to: PostState,
    ) -> Result<(), StoreError> {
        self.call(move |connection| {
            let from = find(connection, id)?.state;
            if matches!(from, PostState::Delivered | PostState::Sending) {
                return Err(CommandError::from(StoreError::PostTransition { id, from, to }));
            }
            connection.prepare_cached(statement)?.execute(named_params! { ":id": id.0 })?;
            Ok(())
        })
        .await
    }
}
