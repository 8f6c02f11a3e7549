//! The controller's end: lets in who may, and serves them.
//!
//! Only the same user, and root, are let in. Everything that they could make
//! grow has a bound; a connection that says nothing is closed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Json, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::Stream;
use futures_util::future::BoxFuture;
use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::process::geteuid;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::client::{Held, ShutDown};
use super::{
    ApplyEvent, ApplyRequest, BODY_MAX, BOUNDS, ChatEnd, ChatEvent, ChatRequest, Hello, Lease,
    PROTOCOL, PostDecision, PostOutcome, Refusal, Said, Service, Status,
};
use crate::desired::Desired;
use crate::name::{GroupName, ThreadId};

/// Clients at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Largest body of a request that carries neither manifest nor plan, in bytes.
const SMALL_BODY_MAX: usize = 1 << 20;
/// How long a client may take until its first request.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long what is under way may take once the controller is to stop serving.
const GRACE: Duration = Duration::from_secs(2);
/// The wait where the system gives no further connection.
const PAUSE: Duration = Duration::from_millis(500);
/// Events of one request that wait to be sent.
const EVENTS_MAX: usize = 64;

/// What every route is given.
#[derive(Clone)]
struct Desk {
    service: Arc<dyn Service>,
    stop: CancellationToken,
}

/// Serves `service` until `stop`; then finishes what is under way, for a moment. What is `renewed`
/// takes the place of the listener: its socket was lost. Who is connected already stays so.
pub async fn serve(
    mut listener: UnixListener,
    mut renewed: mpsc::Receiver<UnixListener>,
    service: Arc<dyn Service>,
    stop: CancellationToken,
) {
    let router = router(Desk { service, stop: stop.clone() });
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next() => continue,
            Some(another) = renewed.recv() => {
                listener = another;
                continue;
            }
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((client, _)) if !may_enter(&client) => {}
            Ok(_) if clients.len() >= CONNECTIONS_MAX => {
                tracing::warn!(clients = clients.len(), "too many clients; one was refused");
            }
            Ok((client, _)) => {
                clients.spawn(attend(client, router.clone(), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept clients for now");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

/// Whether a client is the same user, or root.
fn may_enter(client: &UnixStream) -> bool {
    match client.peer_cred() {
        Ok(peer) if peer.uid() == geteuid().as_raw() || peer.uid() == 0 => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused a client of another user");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused a client whose user is unknown");
            false
        }
    }
}

/// Serves one client until it goes, breaks a bound, or stops answering pings.
async fn attend(client: UnixStream, router: Router, stop: CancellationToken) {
    let asked = CancellationToken::new();
    let answers = {
        let (asked, router) = (asked.clone(), TowerToHyperService::new(router));
        hyper::service::service_fn(move |request| {
            asked.cancel();
            router.call(request)
        })
    };
    let connection = BOUNDS.server().serve_connection(TokioIo::new(client), answers);
    let mut connection = std::pin::pin!(connection);
    let silent = async {
        if tokio::time::timeout(SILENCE_MAX, asked.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = silent => {
            tracing::debug!("closed a client that asked nothing");
            return;
        }
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = crate::error::chain(&error), "a client's connection broke");
    }
}

fn router(desk: Desk) -> Router {
    let large = Router::new()
        .route("/observe", post(observe))
        .route("/apply", post(apply))
        .layer(DefaultBodyLimit::max(BODY_MAX));
    Router::new()
        .route("/hello", get(hello))
        .route("/status", get(status))
        .route("/status/watch", get(watch_status))
        .route("/chat", post(chat))
        .route("/chat/{thread}/messages", post(say))
        .route("/chat/{thread}/cancel", post(cancel))
        .route("/posts/{post}", post(acknowledge))
        .route("/posts/{post}/decision", post(decide))
        .route("/groups/{group}/held", post(hold))
        .route("/groups/{group}/lease", post(lease))
        .route("/shut-down", post(shut_down))
        .layer(DefaultBodyLimit::max(SMALL_BODY_MAX))
        .merge(large)
        .with_state(desk)
}

async fn hello(State(desk): State<Desk>) -> Json<Hello> {
    let status = desk.service.status().borrow().clone();
    Json(Hello {
        protocol: PROTOCOL,
        version: status.version.clone(),
        instance: status.instance.clone(),
        role: status.role,
        pid: status.pid,
    })
}

async fn status(State(desk): State<Desk>) -> Json<Status> {
    let status = desk.service.status().borrow().clone();
    Json((*status).clone())
}

async fn watch_status(State(desk): State<Desk>) -> Response {
    let mut changes = desk.service.status();
    // What holds now is the first change.
    changes.mark_changed();
    let lines = futures_util::stream::unfold((changes, desk.stop), |(mut changes, stop)| async {
        tokio::select! {
            changed = changes.changed() => changed.ok()?,
            () = stop.cancelled() => return None,
        }
        let line = Line::of(&**changes.borrow_and_update())?;
        Some((Ok(line.0), (changes, stop)))
    });
    AnswerTask::nothing().lines(lines)
}

async fn observe(State(desk): State<Desk>, Json(desired): Json<Desired>) -> Response {
    match desk.service.observe(desired).await {
        Ok(observed) => Json(observed).into_response(),
        Err(refusal) => refuse(refusal),
    }
}

async fn apply(State(desk): State<Desk>, Json(request): Json<ApplyRequest>) -> Response {
    stream(
        move |events| async move { desk.service.apply(request, events).await },
        |why| ApplyEvent::Error { why },
    )
}

async fn chat(State(desk): State<Desk>, Json(request): Json<ChatRequest>) -> Response {
    stream(
        move |events| async move { desk.service.chat(request, events).await },
        |why| ChatEvent::End { end: ChatEnd::Failed { why } },
    )
}

async fn lease(State(desk): State<Desk>, Path(group): Path<GroupName>) -> Response {
    stream(
        move |granted| async move { desk.service.lease(group, granted).await },
        |why| Err::<Lease, _>(Refusal { why }),
    )
}

async fn acknowledge(
    State(desk): State<Desk>,
    Path(post): Path<i64>,
    Json(outcome): Json<PostOutcome>,
) -> Response {
    done(desk.service.acknowledge(post, outcome)).await
}

async fn say(
    State(desk): State<Desk>,
    Path(thread): Path<ThreadId>,
    Json(said): Json<Said>,
) -> Response {
    done(desk.service.say(thread, said)).await
}

async fn cancel(State(desk): State<Desk>, Path(thread): Path<ThreadId>) -> Response {
    done(desk.service.cancel(thread)).await
}

async fn decide(
    State(desk): State<Desk>,
    Path(post): Path<i64>,
    Json(decision): Json<PostDecision>,
) -> Response {
    done(desk.service.decide(post, decision)).await
}

async fn hold(
    State(desk): State<Desk>,
    Path(group): Path<GroupName>,
    Json(Held { held }): Json<Held>,
) -> Response {
    match desk.service.hold(group, held).await {
        Ok(changed) => Json(changed).into_response(),
        Err(refusal) => refuse(refusal),
    }
}

async fn shut_down(
    State(desk): State<Desk>,
    Json(ShutDown { patience }): Json<ShutDown>,
) -> Response {
    done(desk.service.shut_down(patience)).await
}

async fn done(work: BoxFuture<'_, Result<(), Refusal>>) -> Response {
    match work.await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refuse(refusal),
    }
}

fn refuse(refusal: Refusal) -> Response {
    (StatusCode::CONFLICT, Json(refusal)).into_response()
}

/// Does work that tells how it goes, and sends what it tells. It ends with the client that asked
/// for it; what cannot be sent is said as an event of its own.
fn stream<T, F>(
    work: impl FnOnce(mpsc::Sender<T>) -> F,
    unsendable: impl Fn(String) -> T + Send + 'static,
) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    // The answer lasts as long as the work does, whatever becomes of the work's own sender.
    let open = events.clone();
    let work = work(events);
    // Apart from the answer: a client that reads slowly does not hold up what is done.
    let work = AnswerTask(Some(tokio::spawn(async move {
        work.await;
        drop(open);
    })));
    let lines =
        futures_util::stream::unfold((inbox, unsendable), |(mut inbox, unsendable)| async {
            let event = inbox.recv().await?;
            let line = match Line::of(&event) {
                Some(line) => line,
                None => Line::of(&unsendable("the answer is too large to send".to_owned()))?,
            };
            Some((Ok(line.0), (inbox, unsendable)))
        });
    work.lines(lines)
}

/// A value as one line of JSON.
struct Line(Bytes);

impl Line {
    /// `None` if it is larger than what is sent.
    fn of(value: &impl Serialize) -> Option<Self> {
        let mut line = serde_json::to_vec(value).ok()?;
        line.push(b'\n');
        (line.len() <= BODY_MAX).then(|| Self(line.into()))
    }
}

/// What is done for an answer: dropped with it.
struct AnswerTask(Option<JoinHandle<()>>);

impl AnswerTask {
    fn nothing() -> Self {
        Self(None)
    }

    /// The answer that these lines are.
    fn lines(
        self,
        lines: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
    ) -> Response {
        use futures_util::StreamExt as _;
        let held = lines.map(move |line| {
            let _ = &self;
            line
        });
        ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(held)).into_response()
    }
}

impl Drop for AnswerTask {
    fn drop(&mut self) {
        if let Some(work) = &self.0 {
            work.abort();
        }
    }
}
