//! Becoming the controller: what `up` is for as long as it runs, and `chat` for as long as it lasts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use rustix::process::DumpableBehavior;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::channel::Registry;
use crate::channel::terminal::Terminal;
use crate::cli::Context;
use crate::cli::apply;
use crate::cli::join::control_error;
use crate::cli::progress::Build;
use crate::clock::{Clock, SystemClock};
use crate::control::client::Client;
use crate::control::place::{self, Bases};
use crate::control::{Role, server};
use crate::controller::guard::{self, Belongings, Lost};
use crate::controller::{Controller, Setup, ShutdownHandle};
use crate::error::{Error, Exit, chain};
use crate::execute::Change as _;
use crate::host::{Host, HostError};
use crate::machine::HostContext;
use crate::machine::project_error;
use crate::name::ProjectName;
use crate::observe::{Holder, Look as _};
use crate::observed::{Applied, Known, Owner};
use crate::plan::Work;
use crate::project::InstanceLock;
use crate::resource::{self, Capabilities, ImageSpec, ResourceId, RuntimeRef, Spec};
use crate::runtime::Runtimes;
use crate::session::Parts;
use crate::source;
use crate::store::Store;

/// How long a controller that is just coming, or an apply, is waited for by who needs one.
pub const COMING_MAX: Duration = Duration::from_secs(30);
/// How often is looked whether it is there.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long an agent that was idle may take to end with a controller that does not last.
pub const REST_MAX: Duration = Duration::from_secs(5);
/// How long a controller's first word on its groups may take.
const STATUS_MAX: Duration = Duration::from_secs(2);
/// How long the store's last user may take to let go of it.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A controller in this process, with everything that it holds.
#[derive(Debug)]
pub struct Serving {
    /// The controller.
    pub controller: Controller,
    server: JoinHandle<()>,
    stop: CancellationToken,
    guard: JoinHandle<Belongings>,
    lost: watch::Receiver<Option<Lost>>,
    store: Store,
}

/// What a controller is started with.
#[derive(Debug)]
pub struct Start {
    /// What it is there for.
    pub role: Role,
    /// The project and its machine.
    pub ground: HostContext,
    /// The instance's lock.
    pub lock: InstanceLock,
    /// The store.
    pub store: Store,
    /// What was applied last.
    pub applied: Applied,
    /// Whether safe edits of the manifest are applied without a word.
    pub follow: bool,
}

/// Becomes the controller of an instance.
///
/// # Errors
/// When what an earlier one left cannot be taken over, or the socket has no place.
pub async fn serve(start: Start, context: &Context) -> Result<Serving, Error> {
    let Start { role, mut ground, lock, store, applied, follow } = start;
    let setup = |error: io::Error| Error::failed("become the controller", &error);
    // Both ends of a link hide from the tools; and what an agent leaves behind comes here.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| setup(error.into()))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| setup(error.into()))?;
    crate::process::raise_open_files();
    let instance = ground.project.instance(&SystemClock).map_err(project_error)?;
    let host = take_over(&mut ground, &store, &applied).await?;
    let number = applied.number;
    let groups = applied.specs.keys().filter(|id| matches!(id, ResourceId::Group(_))).count();
    // Where one of several does not answer, groups on the others are served all the same.
    let reachable = |reference: &RuntimeRef| match ground.runtimes.get(reference) {
        Ok(runtime) => !host.unreaped().contains(&runtime.reference()),
        Err(_) => false,
    };
    let used = resource::runtimes(&applied.specs);
    let any = used.is_empty() || used.values().any(reachable);
    if role == Role::Short && !any {
        return Err(no_runtime(&ground));
    }
    if role == Role::Short {
        build_what_is_gone(&ground, &applied, context).await?;
    }
    let host = host.with_generation(number, Arc::new(applied.specs));
    let since = SystemClock.now();
    let project = ground.project.clone();
    let owner = ground.project.owner();
    let bases = Bases::of_environment();
    let (listener, place) = place::open(&project.data(), &instance, role, since, owner, &bases)
        .map_err(|error| control_error("open the control socket", &error))?;
    let terminal = Arc::new(Terminal::default());
    let setup = Setup {
        role,
        registry: Registry::of_house(&terminal),
        terminal,
        name: name_of(context),
        manifest: context.manifest.clone(),
        runtimes: ground.statuses(host.specs()),
        machine: ground,
        host,
        follow,
    };
    let controller =
        Controller::start(setup).map_err(|error| Error::new(Exit::Failed, chain(&error)))?;
    // Whoever joins at once finds every group in the status.
    let mut status = controller.service().status();
    let known = status.wait_for(|status| status.groups.len() >= groups);
    let _ = tokio::time::timeout(STATUS_MAX, known).await;
    let stop = CancellationToken::new();
    let (listeners, renewed) = mpsc::channel(1);
    let service = controller.service();
    let server = tokio::spawn(server::serve(listener, renewed, service, stop.clone()));
    let own = Belongings { project, instance, lock, place, bases };
    let (tell, lost) = watch::channel(None);
    let guard = tokio::spawn(guard::look_after(own, listeners, tell, stop.clone()));
    Ok(Serving { controller, server, stop, guard, lost, store })
}

/// Takes over from whoever was the controller before: ends what is left of it, here and at engines
/// of old.
async fn take_over(
    ground: &mut HostContext,
    store: &Store,
    applied: &Applied,
) -> Result<Host, Error> {
    let instance = ground.project.instance(&SystemClock).map_err(project_error)?;
    let has_engine = uses_engine(&applied.specs);
    let recorded = resource::engine(&applied.specs);
    let used = store.endpoints().await.unwrap_or_default();
    if has_engine || !used.is_empty() {
        ground.serve_from(recorded.as_deref()).await;
    }
    let engine = recorded.or_else(|| ground.endpoint());
    if let Some(engine) = engine.as_ref().filter(|_| has_engine) {
        // Before the first agent runs there: whoever comes after a change finds it.
        let remembered = store.remember_endpoint(engine, SystemClock.now()).await;
        remembered.map_err(|error| apply::store_error("start", &error))?;
    }
    ground.reap_old_engines(&instance, used, engine.as_deref()).await;
    let parts = Parts {
        project: ground.project.clone(),
        store: store.clone(),
        runtimes: ground.runtimes.clone(),
        gateway: ground.gateway.clone(),
        clock: Arc::new(SystemClock),
    };
    Host::take_over(parts, instance, applied.specs.clone(), TimeZone::system())
        .await
        .map_err(host_error)
}

/// Whether a sandbox of these specs is a container of an engine.
fn uses_engine(specs: &BTreeMap<ResourceId, Spec>) -> bool {
    let runtimes = resource::runtimes(specs);
    runtimes.values().any(|reference| Capabilities::expected(reference.kind).images)
}

/// Ends the containers of a controller that did not end them itself, where none runs now; gives
/// their names.
///
/// # Errors
/// When whether there are any is unknown, or somebody else is at work.
pub async fn end_what_is_left(context: &Context) -> Result<Vec<String>, Error> {
    let mut ground = HostContext::of_project(context.project())?;
    let Some(applied) = ground.applied().await else { return Ok(Vec::new()) };
    if !uses_engine(&applied.specs) {
        return Ok(Vec::new());
    }
    let recorded = resource::engine(&applied.specs);
    ground.serve_from(recorded.as_deref()).await;
    let instance = ground.project.instance(&SystemClock).map_err(project_error)?;
    let docker = ground.runtimes.with_images();
    let seen = match docker {
        Ok(docker) => docker.list(&instance).await,
        Err(error) => Err(error),
    };
    let seen = seen.map_err(|error| Error::failed("look for leftover containers", &error))?;
    let ours = seen.into_values().flatten().filter(|seen| seen.owner == Owner::Ours);
    let left: Vec<String> = ours.map(|seen| seen.name).collect();
    if !left.is_empty() {
        let (_lock, store, applied) = open_instance("down", &ground).await?;
        take_over(&mut ground, &store, &applied).await?;
        let _ = tokio::time::timeout(CLOSE_MAX, store.close()).await;
    }
    Ok(left)
}

/// Builds the image that was applied, where it is gone: who does not last has nobody to mend it.
async fn build_what_is_gone(
    ground: &HostContext,
    applied: &Applied,
    context: &Context,
) -> Result<(), Error> {
    let look = ground.look(Holder::Ourselves);
    for (id, spec) in &applied.specs {
        let Spec::Image(image @ ImageSpec::Built { .. }) = spec else { continue };
        if look.see(id, spec).await != Known::Absent {
            continue;
        }
        context.progress("The agents' image is missing. Building it again.\n");
        let build = Arc::new(Build::new(context));
        let work = Work::BuildImage { image: image.clone() };
        let built = apply::executor(ground, &build).carry_out(&work).await;
        build.end(built.is_err());
        built.map_err(|why| {
            Error::new(Exit::Failed, format!("the agents' image is missing: {why}"))
                .hinted("fix the problem and run `babybot chat` again")
        })?;
    }
    Ok(())
}

impl Serving {
    /// Becomes ready when something was taken away without which it cannot go on.
    pub fn lost(&self) -> impl Future<Output = Lost> + use<> {
        let mut lost = self.lost.clone();
        async move {
            match lost.wait_for(Option::is_some).await.ok().and_then(|lost| lost.clone()) {
                Some(lost) => lost,
                None => std::future::pending().await,
            }
        }
    }

    /// Lets what is under way finish within `patience`, and ends everything.
    pub async fn end(self, patience: Duration) {
        let Self { controller, server, stop, guard, store, .. } = self;
        controller.end(patience).await;
        stop.cancel();
        let _ = server.await;
        drop(controller);
        let own = guard.await;
        let lock = own.map(|Belongings { place, lock, .. }| {
            // The socket goes before the lock does: whoever comes next makes its own.
            drop(place);
            lock
        });
        // Whatever was acknowledged is committed; what still holds on to it may be waiting for an
        // engine.
        let _ = tokio::time::timeout(CLOSE_MAX, store.close()).await;
        drop(lock);
    }
}

/// A controller in this process, which ends with the verb that needs one.
#[derive(Debug)]
pub struct Own {
    /// Hurries its end.
    pub shutdown: ShutdownHandle,
    /// What it makes sandboxes with.
    pub runtimes: Runtimes,
    /// Ends it, within this time.
    end: oneshot::Sender<Duration>,
    ended: JoinHandle<()>,
}

impl Own {
    /// Lets what is under way finish within `patience`, and ends it; at once, where somebody
    /// insists.
    pub async fn end(self, patience: Duration, insisted: impl Future<Output = ()>, to: &Context) {
        let Self { shutdown, end, ended, .. } = self;
        if shutdown.applies() {
            to.progress("Waiting for a running apply to finish; press Ctrl-C to stop it.\n");
        }
        let _ = end.send(patience);
        let mut ended = std::pin::pin!(ended);
        tokio::select! {
            _ = &mut ended => return,
            () = insisted => {}
        }
        shutdown.hurry().await;
        let _ = ended.await;
    }
}

/// Takes what a controller needs of a project where none runs, and what was applied last.
///
/// # Errors
/// When somebody else is at work, or nothing was applied.
pub async fn open_instance(
    verb: &str,
    ground: &HostContext,
) -> Result<(InstanceLock, Store, Applied), Error> {
    let gone = || Error::new(Exit::Failed, "cannot read the applied generation");
    if ground.applied().await.is_none() {
        // Before anything is made.
        return Err(gone());
    }
    let lock = ground.project.lock(verb, SystemClock.now()).map_err(project_error)?;
    let store = apply::open_store(&ground.project, &lock)?;
    // Only now nobody else applies anything.
    match ground.look(Holder::Ourselves).applied().await {
        Known::Is(applied) => Ok((lock, store, applied)),
        _ => Err(gone()),
    }
}

/// Becomes the controller for as long as a verb lasts, and joins it as any other would.
///
/// # Errors
/// As [`serve`], and when it ends at once.
pub async fn serve_shortly(
    ground: HostContext,
    lock: InstanceLock,
    store: Store,
    applied: Applied,
    context: &Context,
) -> Result<(Client, Own), Error> {
    let instance = ground.project.instance(&SystemClock).map_err(project_error)?;
    let (data, runtimes) = (ground.project.data(), ground.runtimes.clone());
    let start = Start { role: Role::Short, ground, lock, store, applied, follow: false };
    let serving = serve(start, context).await?;
    let shutdown = serving.controller.shutdown();
    let (end, ending) = oneshot::channel();
    let (asked, lost, hurry) = (serving.controller.clone(), serving.lost(), shutdown.clone());
    let ended = tokio::spawn(async move {
        let patience = tokio::select! {
            patience = asked.asked_to_end() => patience.unwrap_or(REST_MAX),
            patience = ending => patience.unwrap_or_default(),
            lost = lost => {
                tracing::error!("stopping at once: {lost}");
                hurry.hurry().await;
                Duration::ZERO
            }
        };
        // It ends once nobody holds on to it.
        drop(asked);
        serving.end(patience).await;
    });
    let own = Own { shutdown, runtimes, end, ended };
    let client = Client::connect(&data, &instance).await;
    match client.map_err(|error| control_error("reach the controller", &error))? {
        Some(client) => Ok((client, own)),
        None => Err(Error::new(Exit::Failed, "the controller stopped at once")),
    }
}

/// A store's or a takeover's error at the front door.
#[must_use]
pub fn host_error(error: HostError) -> Error {
    match &error {
        HostError::Store(store) => apply::store_error("start", store),
        _ => Error::new(Exit::Failed, chain(&error)),
    }
}

/// What is said where agents cannot be started, because their runtime does not answer.
fn no_runtime(ground: &HostContext) -> Error {
    let why = match &ground.docker {
        Known::Unknown(why) => why.clone(),
        _ => "no container engine was found".to_owned(),
    };
    Error::new(Exit::Failed, format!("docker was applied, but it does not answer: {why}"))
        .hinted("make it available, or change `runtime.kind` and apply")
}

/// The project's name, for what is printed.
fn name_of(context: &Context) -> ProjectName {
    let named = source::read(&context.manifest).map(|source| source.manifest.name.value);
    named.unwrap_or_else(|_| ProjectName::new("project").expect("it is a plain word"))
}
