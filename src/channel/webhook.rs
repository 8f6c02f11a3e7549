//! A webhook: programs write to groups over HTTP, and read the replies or are called back.
//!
//! `docs/webhook.openapi.json` describes the API. Whoever has the token may write to every chat
//! that a group binds and read its replies. A reply is readable for as long as the outbox has it; a
//! callback is posted by [`Channel::send`], one attempt at a time.

mod answer;
mod callback;
mod connection;
mod hmac;
mod rate;
mod request;
mod routes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::callback::Callback;
use self::connection::{Connections, serve};
use self::rate::Rates;
use super::{Capabilities, Channel, Formatting, Inbox, Opening, Outgoing, SendOutcome};
use crate::name::ChannelName;
use crate::resource::{ChannelSpec, WebhookSpec, Writers};
use crate::secret::Secret;

/// The shortest token, in bytes.
const TOKEN_LENGTH_MIN: usize = 16;
/// Most requests that wait for a reply at once.
const WAITS_MAX: usize = 64;
/// The longest post, in characters: all that the outbox takes.
const POST_LENGTH_MAX: usize = 1 << 20;

/// A webhook.
#[derive(Debug)]
struct Webhook {
    name: ChannelName,
    listen: SocketAddr,
    token: Secret,
    callback: Option<Callback>,
    /// Counts what was handed over to be sent, so that whoever waits for a reply looks again.
    posts: watch::Sender<u64>,
    rates: Rates,
    /// Places of requests that wait for a reply.
    waits: Semaphore,
    /// Whether it listens, or why not.
    listens: Mutex<Result<(), String>>,
}

/// Opens a webhook; `None` for a channel of another kind.
pub(super) fn open(opening: &Opening<'_>) -> Option<Result<Arc<dyn Channel>, String>> {
    let ChannelSpec::Webhook(spec) = opening.spec else { return None };
    Some(Webhook::new(opening, spec).map(|webhook| Arc::new(webhook) as Arc<dyn Channel>))
}

impl Webhook {
    fn new(opening: &Opening<'_>, spec: &WebhookSpec) -> Result<Self, String> {
        let resolve = |secret| (opening.secrets)(secret).map_err(|error| error.to_string());
        let token = resolve(&spec.token)?;
        if token.expose().len() < TOKEN_LENGTH_MIN {
            return Err(format!(
                "secret {} is shorter than {TOKEN_LENGTH_MIN} characters; make one with `openssl rand -hex 32`",
                spec.token.name
            ));
        }
        if !token.expose().iter().all(u8::is_ascii_graphic) {
            return Err(format!(
                "secret {} cannot be sent in a header; use letters and digits only",
                spec.token.name
            ));
        }
        let callback = match &spec.callback {
            Some(callback) => Some(Callback::new(
                opening.name.clone(),
                callback.url.clone(),
                resolve(&callback.secret)?,
            )?),
            None => None,
        };
        Ok(Self {
            name: opening.name.clone(),
            listen: spec.listen,
            token,
            callback,
            posts: watch::Sender::new(0),
            rates: Rates::default(),
            waits: Semaphore::new(WAITS_MAX),
            listens: Mutex::new(Err(format!("does not listen on {} yet", spec.listen))),
        })
    }

    fn note(&self, listens: Result<(), String>) {
        *self.listens.lock().unwrap_or_else(PoisonError::into_inner) = listens;
    }

    async fn bind(&self) -> Result<TcpListener, String> {
        TcpListener::bind(self.listen).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another program listens on {}; stop it, or change `listen`", self.listen)
            }
            std::io::ErrorKind::AddrNotAvailable => {
                format!("this machine has no address {}; change `listen`", self.listen.ip())
            }
            std::io::ErrorKind::PermissionDenied => {
                format!(
                    "this user may not listen on port {}; use one above 1023",
                    self.listen.port()
                )
            }
            _ => format!("cannot listen on {}: {error}", self.listen),
        })
    }

    /// Serves whoever connects, a bounded number at a time, until `cancelled`.
    async fn accept(
        &self,
        listener: TcpListener,
        inbox: &dyn Inbox,
        cancelled: &CancellationToken,
    ) {
        let open = Connections::default();
        let mut serving = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = cancelled.cancelled() => break,
                Some(()) = serving.next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        if let Some(place) = open.place() {
                            serving.push(serve(self, inbox, stream, place, cancelled));
                        }
                    }
                    // The client went away again, or there are too many open files: not for long.
                    Err(error) => {
                        tracing::debug!(channel = %self.name, %error, "a connection was lost");
                        tokio::time::sleep(connection::AFTER_A_FAULT).await;
                    }
                },
            }
        }
        drop(listener);
        // Each ends by itself, soon: it was cancelled as well.
        while serving.next().await.is_some() {}
    }
}

impl Channel for Webhook {
    fn run<'a>(
        &'a self,
        inbox: &'a dyn Inbox,
        cancelled: CancellationToken,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let bound = self.bind().await;
            self.note(bound.as_ref().map(drop).map_err(Clone::clone));
            self.accept(bound?, inbox, &cancelled).await;
            self.note(Err("stopped".to_owned()));
            Ok(())
        })
    }

    fn send<'a>(&'a self, post: &'a Outgoing) -> BoxFuture<'a, SendOutcome> {
        self.posts.send_modify(|count| *count += 1);
        Box::pin(async move {
            match &self.callback {
                Some(callback) => callback.post(post).await,
                // It is readable, which is all that this channel does with it.
                None => SendOutcome::Sent { service_id: None },
            }
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            edit: false,
            typing: false,
            fetch: false,
            threads: false,
            writers: Writers::Trusted,
            text_max: POST_LENGTH_MAX,
            formatting: Formatting::Markdown,
        }
    }

    fn probe(&self) -> BoxFuture<'_, Result<String, String>> {
        let listens = self.listens.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let shown = format!("listens on {}", self.listen);
        Box::pin(async move { listens.map(|()| shown) })
    }
}
