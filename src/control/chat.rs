//! What a conversation at the terminal and its controller say to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{GroupName, MessageId, SenderId, ThreadId};

/// A person talks to a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The group.
    pub group: GroupName,
    /// By which this conversation is known, to every controller that it goes through.
    pub thread: ThreadId,
    /// Who talks.
    pub person: Person,
    /// Whether it goes on from another controller.
    pub resumed: bool,
}

/// Who talks at a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// As the system knows them.
    pub id: SenderId,
    /// As they are shown.
    pub name: String,
}

/// Something that is said in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// By which it is known, however often it is said.
    pub id: MessageId,
    /// The text.
    pub text: String,
}

/// How a conversation goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ChatEvent {
    /// From now on it is heard.
    Joined,
    /// It waits for others.
    Queued {
        /// The groups that are at work; the group itself, where that has another conversation.
        behind: Vec<GroupName>,
    },
    /// The agent is being started.
    Waking,
    /// The model is asked.
    Thinking,
    /// More of the answer: a preview of a reply, which never counts as shown.
    Text {
        /// What was added.
        text: String,
        /// Whether it begins an answer, and takes the place of what was shown before.
        fresh: bool,
    },
    /// It waits for this.
    Waits {
        /// In words.
        what: String,
    },
    /// Something that it needs is not there yet. It goes on once that is.
    Away {
        /// In words, with what helps.
        why: String,
    },
    /// What was away is there again.
    Back,
    /// A tool runs.
    Tool {
        /// Its name.
        name: String,
        /// Its arguments, as JSON.
        arguments: String,
    },
    /// Something worth knowing about the answer.
    Note {
        /// In words.
        text: String,
    },
    /// A limit struck.
    Struck {
        /// Its path in the manifest.
        limit: String,
    },
    /// Another attempt follows.
    Retry {
        /// What went wrong.
        why: String,
        /// How long until then.
        wait: Duration,
    },
    /// Something to be shown. It counts as shown once it was acknowledged.
    Post {
        /// By which it is acknowledged.
        id: i64,
        /// Whether it is a reply, and not a notice that there is none.
        reply: bool,
        /// The text.
        text: String,
        /// Whether it may have been shown before.
        uncertain: bool,
        /// The messages that it answers.
        answers: Vec<MessageId>,
        /// What it answers, where an earlier conversation asked that, which has gone.
        late: Option<String>,
    },
    /// Messages are answered, or never will be.
    Over {
        /// Which ones.
        messages: Vec<MessageId>,
        /// How.
        outcome: Outcome,
    },
    /// The conversation ends.
    End {
        /// How.
        end: ChatEnd,
    },
}

/// How what was said came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// With a reply.
    Answered,
    /// It was cancelled.
    Cancelled,
    /// It was given up, and a notice says why.
    GivenUp,
    /// There is a reply, and it could not be shown.
    Parked,
}

/// How a conversation ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum ChatEnd {
    /// The controller makes way for another, which goes on with it: join that one.
    HandedOver,
    /// The controller failed.
    Failed {
        /// Why.
        why: String,
    },
}

/// What became of a post.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum PostOutcome {
    /// It was shown.
    Shown,
    /// It could not be shown.
    NotShown {
        /// Why.
        why: String,
    },
}
