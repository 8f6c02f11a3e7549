//! A warm turn, from the stored message to the stored reply, with a real agent process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use babybot::channel::terminal::Terminal;
use babybot::channel::{InboundEvent, Sender};
use babybot::clock::{Clock as _, SystemClock, Timestamp};
use babybot::desired::{Desired, Setting};
use babybot::gateway::Gateway;
use babybot::host::{Host, Worked, Worker};
use babybot::link::{client, server};
use babybot::manifest;
use babybot::name::{ChannelName, ChatId, GroupName, MessageId};
use babybot::project::Project;
use babybot::resource::Writers;
use babybot::runtime::process::{ProcessRuntime, Strays};
use babybot::runtime::{Runtime, Runtimes};
use babybot::session::Parts;
use babybot::store::{Incoming, Store};
use http_body_util::BodyExt as _;
use jiff::tz::TimeZone;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::harness::{Effort, Table, Times, shown};
use crate::instant::Instantly;

/// The median that a warm turn's overhead is to stay under.
pub(crate) const TARGET: Duration = Duration::from_millis(3);

/// The shape of the program's own runtime.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The overhead of a turn, in its two halves.
pub(crate) fn turns(effort: Effort, table: &mut Table) {
    let count = effort.samples(400);
    runtime().block_on(async {
        let floor = link_round_trips(count).await;
        let (before, after) = asked_turns(count).await;
        let both: Vec<Duration> = before.iter().zip(&after).map(|(one, two)| *one + *two).collect();
        let rehearsed = rehearsed_turns(count).await;
        table.heading("A warm turn on `none`; the floor is a round trip on a bare link");
        let floor = Some(&floor);
        let before = Times::new(before);
        let after = Times::new(after);
        table.line("message accepted → request at the model", &before, floor, None);
        table.line("model's last byte → reply stored", &after, floor, None);
        table.line("both: the overhead", &Times::new(both), floor, Some(TARGET));
        table.line("a whole turn with the rehearsal", &rehearsed, floor, None);
    });
}

/// A request and its answer over HTTP/2 on a socket pair, with nothing behind it.
pub(crate) async fn link_round_trips(count: usize) -> Times {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let echo = Router::new().route("/echo", post(|body: axum::body::Bytes| async { body }));
    tokio::spawn(server::serve(ours, echo));
    let (link, connection) = client::connect(theirs).await.unwrap();
    tokio::spawn(connection);
    let mut times = Vec::new();
    for round in 0..count + count.div_ceil(10) {
        let begun = Instant::now();
        let answer = link.post_json("/echo", &"what is on today?").await.unwrap();
        answer.into_body().collect().await.unwrap();
        if round >= count.div_ceil(10) {
            times.push(begun.elapsed());
        }
    }
    Times::new(times)
}

/// A group whose agent runs, in a project of its own.
struct House {
    host: Host,
    worker: Worker,
    group: GroupName,
    _folder: tempfile::TempDir,
}

impl House {
    /// The group's model is as these lines of the manifest say.
    async fn new(model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "schema = 1\nname = \"home\"\n[models.local]\n{model}\n[groups.home]\nbind = [\"terminal\"]\n"
        );
        let desired = Desired::new(&manifest::parse(&text).unwrap(), &Setting::default());
        let specs = desired.resources.into_iter().map(|(id, wanted)| (id, wanted.spec)).collect();
        let group = GroupName::new("home").unwrap();
        let project = Project::open(folder.path()).unwrap();
        project.prepare().unwrap();
        for folder in project.folders(&group) {
            project.make_folder(&folder).unwrap();
        }
        project.make_folder(&project.global()).unwrap();
        let instance = project.instance(&SystemClock).unwrap();
        let parts = Parts {
            store: Store::open(&project.database()).unwrap(),
            runtimes: Runtimes::new([Arc::new(ProcessRuntime::new(
                env!("CARGO_BIN_EXE_babybot").into(),
                Strays::Marked,
                babybot::machine::records(&project),
            )) as Arc<dyn Runtime>]),
            gateway: Gateway::new(folder.path().to_path_buf()).unwrap(),
            clock: Arc::new(SystemClock),
            project,
        };
        let host = Host::take_over(parts, instance, specs, TimeZone::UTC).await.unwrap();
        let worker = host.worker(&group).unwrap();
        Self { host, worker, group, _folder: folder }
    }

    /// Runs one turn; gives when it began and when its reply was stored.
    async fn turn(&mut self) -> (Instant, Instant) {
        let (audience, _progress) = mpsc::channel(64);
        let begun = Instant::now();
        let sender = Sender { id: "uid-0".parse().unwrap(), name: "owner".to_owned() };
        let said = (SystemClock.message_id(), "What is on today?".to_owned());
        let thread = "one".parse().unwrap();
        let message = Terminal::message(&self.group, thread, sender, said, SystemClock.now());
        self.host.accept(InboundEvent::Message(Box::new(message)), Writers::Owner).await.unwrap();
        let worked = self.worker.work(&CancellationToken::new(), &audience).await.unwrap();
        let ended = Instant::now();
        assert!(matches!(worked, Some(Worked::Answered)), "{worked:?}");
        (begun, ended)
    }
}

/// Turns with a server that answers at once and notes when it was asked and when it answered:
/// the time before and the time after it, turn by turn.
async fn asked_turns(count: usize) -> (Vec<Duration>, Vec<Duration>) {
    let instant = Instantly::serve().await;
    let model = instant.lines();
    let mut house = House::new(&model).await;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let unmeasured = count.div_ceil(10);
    for round in 0..count + unmeasured {
        let (begun, ended) = house.turn().await;
        let (came, answered) = instant.only_note();
        if round >= unmeasured {
            before.push(came - begun);
            after.push(ended - answered);
        }
    }
    house.worker.rest().await;
    (before, after)
}

/// Whole turns with the model that needs no server.
async fn rehearsed_turns(count: usize) -> Times {
    let mut house = House::new("kind = \"rehearsal\"").await;
    let mut times = Vec::new();
    for round in 0..count + count.div_ceil(10) {
        let (begun, ended) = house.turn().await;
        if round >= count.div_ceil(10) {
            times.push(ended - begun);
        }
    }
    house.worker.rest().await;
    Times::new(times)
}

/// Messages stored in a second, by many callers and by one.
pub(crate) fn messages(effort: Effort, table: &mut Table) {
    let count = effort.samples(20_000);
    let folder = tempfile::tempdir().unwrap();
    let floor = bare_inserts(&folder.path().join("bare.db"), count);
    runtime().block_on(async {
        let store = Store::open(&folder.path().join("babybot.db")).unwrap();
        let one = {
            let begun = Instant::now();
            let few = count.div_ceil(10);
            for number in 0..few {
                store.accept(message(number)).await.unwrap();
            }
            rate(few, begun.elapsed())
        };
        let mut rates = Vec::new();
        for part in 1..=3 {
            let begun = Instant::now();
            let callers = 64;
            let each = count / callers;
            let tasks: Vec<_> = (0..callers)
                .map(|caller| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        for number in 0..each {
                            let number = part * count * 2 + caller * each + number;
                            store.accept(message(number)).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            rates.push(rate(callers * each, begun.elapsed()));
        }
        rates.sort_by(f64::total_cmp);
        let many = rates[1];
        let met = if many >= 5_000.0 { "yes" } else { "NO" };
        table.note(&format!(
            "### Messages stored in a second\n\n| what | per second | × floor | target | met |\n\
             |---|---|---|---|---|\n\
             | floor: bare inserts in one transaction | {floor:.0} | | | |\n\
             | `Store::accept`, 64 callers | {many:.0} | {:.2} | ≥ 5000 | {met} |\n\
             | `Store::accept`, one after another | {one:.0} | {:.2} | | |\n\n\
             One after another is {} for each, committed.",
            many / floor,
            one / floor,
            shown(Duration::from_secs_f64(1.0 / one)),
        ));
    });
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench are small")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn message(number: usize) -> Incoming {
    let at = Timestamp(1_795_000_000_000 + i64::try_from(number).unwrap());
    Incoming {
        channel: ChannelName::terminal(),
        chat: ChatId::new("home").unwrap(),
        message_id: MessageId::new(format!("m-{number}")).unwrap(),
        group: GroupName::new("home").unwrap(),
        thread: None,
        sender_id: None,
        sender: "owner".to_owned(),
        details: None,
        text: "What is on today? And what was it that we wanted to buy?".to_owned(),
        sent_at: at,
        received_at: SystemClock.now(),
        wakes: true,
    }
}

/// What SQLite itself does with rows of this kind.
fn bare_inserts(path: &Path, count: usize) -> f64 {
    let mut database = rusqlite::Connection::open(path).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE messages (seq INTEGER PRIMARY KEY, channel TEXT, chat TEXT,
                 message_id TEXT, grp TEXT, sender TEXT, text TEXT, sent_at INTEGER,
                 received_at INTEGER, wakes INTEGER, UNIQUE (channel, chat, message_id));",
        )
        .unwrap();
    let begun = Instant::now();
    let transaction = database.transaction().unwrap();
    {
        let mut insert = transaction
            .prepare("INSERT INTO messages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .unwrap();
        for number in 0..count {
            let message = message(number);
            insert
                .execute((
                    message.channel.as_str(),
                    message.chat.as_str(),
                    message.message_id.as_str(),
                    message.group.as_str(),
                    &message.sender,
                    &message.text,
                    message.sent_at.0,
                    message.received_at.0,
                    message.wakes,
                ))
                .unwrap();
        }
    }
    transaction.commit().unwrap();
    rate(count, begun.elapsed())
}
