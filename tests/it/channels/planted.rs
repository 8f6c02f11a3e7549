//! A controller with a third kind of channel, which nothing but the registry knows.

use std::sync::Arc;
use std::time::Duration;

use babybot::channel::terminal::Terminal;
use babybot::channel::{Attachment, Channel, Fate, InboundEvent, Registry};
use babybot::clock::{Clock as _, SystemClock};
use babybot::control::{ChannelStatus, Role};
use babybot::controller::{Controller, Setup};
use babybot::machine::HostContext;
use babybot::resource::{Binding, ChannelSpec, ResourceId, SenderMode, Senders, Spec};
use babybot::store::{Conversation, NewPost, PostState, Store};

use super::memory::{Memory, busy, message};
use crate::support::workshop::{PATIENCE, Plan, Workshop, until};

const SCRIPT: &str = r#"
[[rule]]
when = "slow"
steps = [{ reply = "slowly", delay = "300ms" }]
[[rule]]
steps = [{ reply = "heard" }]
"#;

/// A model whose turn lasts until there is a file `go`.
const WORK: &str = r#"
[[rule]]
steps = [
  { call = { tool = "bb_shell", arguments = { command = "while ! [ -e go ]; do sleep 0.02; done" } } },
  { reply = "worked" },
]
"#;

/// A controller whose group `family` listens to everybody in the chat `kitchen` of the channel.
fn controller(shop: &Workshop, channel: &Arc<Memory>) -> Controller {
    controller_for(shop, channel, Some((&["*"], SenderMode::Trigger)))
}

/// The same, for these senders.
fn controller_for(
    shop: &Workshop,
    channel: &Arc<Memory>,
    senders: Option<(&[&str], SenderMode)>,
) -> Controller {
    let mut specs = (**shop.host.specs()).clone();
    let group = specs.get_mut(&ResourceId::Group(shop.group.clone()));
    let Some(Spec::Group(group)) = group else { panic!("no group") };
    let chat = Some("kitchen".parse().unwrap());
    group.bind = vec![Binding { channel: Memory::name(), chat }];
    group.requires_trigger = true;
    group.senders = senders.map(|(allow, mode)| Senders {
        allow: allow.iter().map(|entry| entry.parse().unwrap()).collect(),
        mode,
    });
    // The registry alone decides what a channel of this name is.
    specs.insert(ResourceId::Channel(Memory::name()), Spec::Channel(ChannelSpec::Terminal));
    let (terminal, planted) = (Arc::new(Terminal::default()), Arc::clone(channel));
    let registry = Registry::of_house(&terminal).with(move |opening| {
        let channel = Arc::clone(&planted) as Arc<dyn Channel>;
        (*opening.name == Memory::name()).then_some(Ok(channel))
    });
    let machine = HostContext::of_project(shop.project.root()).unwrap();
    let setup = Setup {
        role: Role::Up,
        name: "test".parse().unwrap(),
        host: shop.host.with_generation(1, Arc::new(specs)),
        runtimes: machine.statuses(shop.host.specs()),
        machine,
        registry,
        terminal,
        manifest: shop.project.root().join("babybot.toml"),
        follow: false,
    };
    Controller::start(setup).unwrap()
}

/// The stored messages that this holds of, in their order.
fn messages(shop: &Workshop, which: &str) -> Vec<String> {
    let store = rusqlite::Connection::open(shop.project.database()).unwrap();
    let query = format!("SELECT message_id FROM messages WHERE {which} ORDER BY seq");
    let mut query = store.prepare(&query).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn written(id: &str, sender: &str, text: &str) -> InboundEvent {
    InboundEvent::Message(Box::new(message(id, sender, text)))
}

#[tokio::test]
async fn a_channel_that_nobody_heard_of_is_heard_and_answered() {
    let shop = Plan::scripted(SCRIPT).build().await;
    let channel = Memory::new();
    let controller = controller(&shop, &channel);

    let mut elsewhere = message("m0", "ada", "@Baby hello");
    elsewhere.chat = "cellar".parse().unwrap();
    let receipt = channel.write(InboundEvent::Message(Box::new(elsewhere))).await;
    assert_eq!(receipt.fate, Fate::Ignored);
    let receipt = channel.write(written("m1", "ada", "nothing for you")).await;
    assert_eq!((receipt.fate, receipt.fresh), (Fate::Kept, true));
    let receipt = channel.write(written("m2", "ada", "@Baby hello")).await;
    assert_eq!((receipt.fate, receipt.fresh), (Fate::Answered, true));
    let again = channel.write(written("m2", "ada", "@Baby hello")).await;
    assert!(!again.fresh);
    let reply = channel.next().await;
    assert_eq!((reply.text.as_str(), reply.notice), ("heard", false));
    assert_eq!(reply.answers, ["m2".parse().unwrap()]);
    assert_eq!((reply.to.chat.as_str(), reply.to.recipient), ("kitchen", "ada".parse().ok()));
    controller.end(Duration::from_secs(10)).await;
    assert!(channel.is_quiet(), "a message has one reply");
}

#[tokio::test]
async fn two_people_in_a_chat_get_a_reply_each_and_who_goes_on_is_answered_together() {
    let shop = Plan::scripted(SCRIPT).build().await;
    let channel = Memory::new();
    let controller = controller(&shop, &channel);
    channel.write(written("a1", "ada", "@Baby slow")).await;
    channel.write(written("b1", "bob", "@Baby slow")).await;
    channel.write(written("b2", "bob", "@Baby slow again")).await;
    let mut answered = Vec::new();
    while answered.len() < 3 {
        let reply = channel.next().await;
        let recipient = reply.to.recipient.unwrap();
        let own = recipient.as_str()[..1].to_owned();
        assert!(reply.answers.iter().all(|id| id.as_str().starts_with(&own)), "{answered:?}");
        answered.extend(reply.answers.iter().map(ToString::to_string));
    }
    answered.sort_unstable();
    assert_eq!(answered, ["a1", "b1", "b2"], "each is named by exactly one reply");
    controller.end(Duration::from_secs(10)).await;
    assert!(channel.is_quiet());
}

#[tokio::test]
async fn strangers_are_not_heard_until_a_group_says_who_is() {
    let shop = Plan::scripted(SCRIPT).build().await;
    let channel = Memory::new();
    let controller = controller_for(&shop, &channel, None);
    let receipt = channel.write(written("m1", "ada", "@Baby hello")).await;
    assert_eq!((receipt.fate, receipt.fresh), (Fate::Ignored, false));
    assert_eq!(messages(&shop, "1 = 1"), [""; 0]);
    controller.end(PATIENCE).await;
    assert!(channel.is_quiet());
}

#[tokio::test]
async fn others_than_those_who_are_allowed_are_context_or_are_not_stored() {
    for (mode, fate) in [(SenderMode::Trigger, Fate::Kept), (SenderMode::Drop, Fate::Ignored)] {
        let shop = Plan::scripted(SCRIPT).build().await;
        let channel = Memory::new();
        let controller = controller_for(&shop, &channel, Some((&["memory:ada"], mode)));
        let receipt = channel.write(written("b1", "bob", "@Baby the door is open")).await;
        assert_eq!(receipt.fate, fate);
        let receipt = channel.write(written("a1", "ada", "@Baby hello")).await;
        assert_eq!(receipt.fate, Fate::Answered);
        let reply = channel.next().await;
        assert_eq!(reply.answers, ["a1".parse().unwrap()]);
        let expected: &[&str] = if fate == Fate::Kept { &["b1", "a1"] } else { &["a1"] };
        assert_eq!(messages(&shop, "turn IS NOT NULL"), expected, "{mode:?}");
        controller.end(PATIENCE).await;
        assert!(channel.is_quiet(), "whoever is not allowed is not answered");
    }
}

#[tokio::test]
async fn while_a_turn_is_at_work_its_chat_is_shown_so_again_and_again() {
    let shop = Plan::scripted(WORK).build().await;
    let channel = Memory::new();
    // A service that never comes back holds up neither the turn nor the next time.
    channel.hang();
    let controller = controller(&shop, &channel);
    channel.write(written("m1", "ada", "@Baby work")).await;
    for _ in 0..2 {
        let at = channel.typing_at().await;
        assert_eq!((at.chat.as_str(), at.recipient), ("kitchen", "ada".parse().ok()));
    }
    std::fs::write(shop.file("go"), "").unwrap();
    assert_eq!(channel.next().await.text, "worked");
    controller.end(PATIENCE).await;
}

#[tokio::test]
async fn an_agent_is_told_of_attachments() {
    let shop = Plan::scripted(SCRIPT).build().await;
    let channel = Memory::new();
    let controller = controller(&shop, &channel);
    let mut sent = message("m1", "ada", "@Baby hello");
    sent.attachments = vec![Attachment {
        id: "file-1".parse().unwrap(),
        name: "plan.pdf".to_owned(),
        media_type: Some("application/pdf".to_owned()),
        size: Some(2048),
    }];
    channel.write(InboundEvent::Message(Box::new(sent))).await;
    assert_eq!(channel.next().await.text, "heard");
    let home = shop.project.session(&shop.group);
    let path = home.join(".ollama/sessions/memory.kitchen.jsonl");
    let transcript = std::fs::read_to_string(path).unwrap();
    let line = r#"<attachment name=\"plan.pdf\" type=\"application/pdf\" size=\"2048 bytes\">"#;
    assert!(transcript.contains(line), "{transcript}");
    controller.end(PATIENCE).await;
}

#[tokio::test]
async fn a_status_says_how_a_channel_is_and_how_much_it_has_to_deliver() {
    let shop = Plan::scripted(SCRIPT).build().await;
    let channel = Memory::new();
    let controller = controller(&shop, &channel);
    let is = |undelivered| ChannelStatus {
        kind: "terminal".to_owned(),
        detail: "a test".to_owned(),
        serves: true,
        undelivered,
    };
    let store = &shop.host.parts().store;
    let reader = Store::read_only(&shop.project.database()).unwrap().unwrap();
    let told = async {
        status_when(&controller, |status| *status == is(0)).await;
        // No group has a part in it: only delivery knows that something changed.
        for _ in 0..3 {
            channel.will_say([busy(Some(Duration::from_secs(3600)))]);
            let post = store.post(post(), SystemClock.now()).await.unwrap();
            let busy = || reader.outbox(Some(PostState::Pending), 1).unwrap();
            until(|| busy().first().is_some_and(|post| post.attempts == 1)).await;
            status_when(&controller, |status| *status == is(1)).await;
            store.retry_post(post).await.unwrap();
            status_when(&controller, |status| *status == is(0)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("a status is late");
    controller.end(PATIENCE).await;
}

#[tokio::test]
async fn a_channel_that_says_it_is_not_well_does_not_serve() {
    let shop = Plan::scripted(SCRIPT).build().await;
    let channel = Memory::new();
    *channel.health.lock().unwrap() = Err("the service refuses the token".to_owned());
    let controller = controller(&shop, &channel);
    let refused = |status: &ChannelStatus| status.detail == "the service refuses the token";
    status_when(&controller, |status| refused(status) && !status.serves).await;
    controller.end(PATIENCE).await;
}

/// What an agent says by itself in the chat `kitchen`.
fn post() -> NewPost {
    let (channel, chat) = (Memory::name(), "kitchen".parse().unwrap());
    let to = Conversation { channel, chat, thread: None, sender: None };
    NewPost { turn: None, to, text: "hello".to_owned() }
}

/// Waits until the status of the channel is so.
async fn status_when(controller: &Controller, is_so: impl Fn(&ChannelStatus) -> bool) {
    let service = controller.service();
    let mut status = service.status();
    let wait = status.wait_for(|status| status.channels.get(&Memory::name()).is_some_and(&is_so));
    tokio::time::timeout(PATIENCE, wait).await.expect("it never came to that").unwrap();
}
