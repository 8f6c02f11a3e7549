//! `babybot up`: the controller in the foreground, or in the background.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::cli::apply::{ApplyFormat, Report};
use crate::cli::approve::{self, ApprovalArgs};
use crate::cli::join::{busy, control_error, join};
use crate::cli::load::stderr_colors;
use crate::cli::preview::Preview;
use crate::cli::serve::{self, Serving, Start};
use crate::cli::{Context, VerbResult, apply, tell};
use crate::clock::{Clock, SystemClock};
use crate::control::Role;
use crate::control::client::Client;
use crate::controller::guard::Lost;
use crate::error::{Error, Exit};
use crate::logging;
use crate::machine::HostContext;
use crate::machine::project_error;
use crate::observe::{Holder, Look as _};
use crate::observed::Known;
use crate::project::{InstanceLock, Project};
use crate::source::{self, Source};
use crate::store::Store;
use crate::unit::Period;

/// How long what is under way may go on once the controller is to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked whether a lock is free, or a controller there.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a controller in the background may take until it serves.
const READY_MAX: Duration = Duration::from_secs(120);

/// Set for a controller that is started to go on in the background.
const DETACHED: &str = "BABYBOT_DETACHED";

/// Runs the controller: applies babybot.toml, keeps the machine matching it, and answers messages.
///
/// At its start it applies like `babybot apply`: it asks, or takes --yes. Without either it runs
/// what was applied last and says what is pending. Then it repairs whatever differs from what was
/// applied. An edited babybot.toml waits for an apply. Ctrl-C or SIGTERM stops it once the current
/// work is finished; a second one stops it at once. Ends with 6 if another controller runs, and with
/// 1 if the project folder, data/ or the store is taken away while it runs.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Run in the background once it is ready; `babybot down` stops it
    #[arg(long)]
    pub detach: bool,
    /// Apply safe edits of babybot.toml without asking
    #[arg(long)]
    pub follow: bool,
    /// How long to wait for a running chat to finish
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub wait: Period,
    /// What is approved, should there be something to apply.
    #[command(flatten)]
    pub approval: ApprovalArgs,
}

/// Runs the controller.
///
/// # Errors
/// Whatever keeps it from serving.
pub async fn run(args: &UpArgs, context: &Context) -> VerbResult {
    if std::env::var_os(DETACHED).is_some() {
        // A session of its own: what ends the terminal it was started from does not end it.
        let _ = rustix::process::setsid();
    }
    let project = make_room(Instant::now() + args.wait.as_duration(), args, context).await?;
    let source = match source::read(&context.manifest) {
        Ok(source) => Some(source),
        Err(report) => {
            tell(&report.human(stderr_colors(context)));
            None
        }
    };
    let work = Box::pin(apply_at_start(source, args, context));
    let begun = apply::unless_stopped("up", context, work).await?;
    let ready = match begun {
        Ok(ready) => ready,
        Err(exit) => return Ok(exit),
    };
    if args.detach {
        drop(ready.store);
        drop(ready.lock);
        return tokio::select! {
            biased;
            detached = detach(args, context, &project) => detached,
            _ = tokio::signal::ctrl_c() => {
                let text = "stopped waiting; the controller starts in the background";
                Err(Error::new(Exit::Interrupted, text)
                    .hinted("run `babybot status` to see it, or `babybot down` to stop it"))
            }
        };
    }
    serve(ready, args, context).await
}

/// What is there once everything that had to be applied is.
struct Ready {
    ground: HostContext,
    lock: InstanceLock,
    store: Store,
}

/// Applies what is to be applied, or says what is not.
async fn apply_at_start(
    source: Option<Source>,
    args: &UpArgs,
    context: &Context,
) -> Result<Result<Ready, Exit>, Error> {
    let ground = HostContext::of_project(context.project())?;
    let before = match ground.look(Holder::Another).applied().await {
        Known::Is(applied) => Some(applied.number),
        Known::Absent => None,
        Known::Unknown(why) => {
            return Err(Error::new(Exit::Failed, format!("cannot read what was applied: {why}")));
        }
    };
    let Some(source) = source else {
        let Some(number) = before else { return Ok(Err(Exit::ManifestInvalid)) };
        tell(&format!("babybot.toml is not valid; generation {number} keeps running.\n"));
        return lock(ground, args, context).await.map(Ok);
    };
    let preview = Preview::with(&source, None, context).await?;
    preview.refuse_strangers()?;
    if preview.plan.is_empty() {
        if preview.plan.is_held_back() {
            tell(&preview.text(context.stderr_color()));
        }
        if before.is_none() {
            return Err(Error::new(Exit::Failed, "nothing is applied yet"));
        }
        return lock(preview.ground, args, context).await.map(Ok);
    }
    context.progress(&preview.text_for_apply(context.stderr_color()));
    let risks = match (approve::approve(&preview, &args.approval, context).await, before) {
        (Ok(risks), _) => risks,
        (Err(error), Some(number)) if !crate::cli::interactive() => {
            let count = preview.plan.steps.len();
            let hint = error.hint().map(ToOwned::to_owned).unwrap_or_default();
            let changes = if count == 1 { "change is" } else { "changes are" };
            tell(&format!(
                "{count} {changes} not applied; generation {number} keeps running: {hint}\n"
            ));
            return lock(preview.ground, args, context).await.map(Ok);
        }
        (Err(error), _) => return Err(error),
    };
    let ready = lock(preview.ground.clone(), args, context).await?;
    let report = Report::new(context, ApplyFormat::Human);
    match apply::apply_plan(&source, &preview, risks, &ready.lock, &ready.store, &report).await {
        Ok(Exit::Ok) => Ok(Ok(ready)),
        Ok(exit) => Ok(Err(exit)),
        // Whatever of it could not be done is tried again by the controller, and shown.
        Err(error) if error.exit() == Exit::PartlyApplied => {
            crate::cli::report(&error);
            Ok(Ok(ready))
        }
        Err(error) => Err(error),
    }
}

/// Waits until the project is free: a controller that does not last makes way.
///
/// # Errors
/// When one that lasts or another verb uses the project, or the wait is over.
async fn make_room(until: Instant, args: &UpArgs, context: &Context) -> Result<Project, Error> {
    loop {
        let (project, client) = join(context).await?;
        if let Some(client) = client {
            make_way(&client, &project, args.wait).await?;
            continue;
        }
        let Some(holder) = project.lock_holder().map_err(project_error)? else {
            return Ok(project);
        };
        if holder.starts_with("`babybot up`") {
            return Err(running(&holder));
        }
        // These two do not serve yet, or no more.
        let passes = ["`babybot chat`", "`babybot exec`"].iter().any(|it| holder.starts_with(it));
        if !passes || Instant::now() >= until {
            return Err(busy(&holder));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The error where a controller runs that lasts.
fn running(holder: &str) -> Error {
    Error::new(Exit::Locked, format!("a controller is already running: {holder}"))
        .hinted("run `babybot status` to see it, or `babybot down` to stop it")
}

/// Takes the lock. A conversation that was not told in time makes way once more: where nobody
/// serves for a moment, whoever talks does.
async fn lock(ground: HostContext, args: &UpArgs, context: &Context) -> Result<Ready, Error> {
    let until = Instant::now() + args.wait.as_duration();
    let lock = loop {
        make_room(until, args, context).await?;
        let refused = match ground.project.lock("up", SystemClock.now()) {
            Ok(lock) => break lock,
            Err(error) => project_error(error),
        };
        if refused.exit() != Exit::Locked || Instant::now() >= until {
            return Err(refused);
        }
    };
    let store = apply::open_store(&ground.project, &lock)?;
    Ok(Ready { ground, lock, store })
}

/// Serves until somebody ends it.
async fn serve(ready: Ready, args: &UpArgs, context: &Context) -> VerbResult {
    let failed = |error: io::Error| Error::failed("listen for signals", &error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let Ready { ground, lock, store } = ready;
    let logs = ground.project.data().join("logs");
    if let Err(error) = logging::to_file(&logs, ground.project.owner()) {
        tracing::warn!(%error, "cannot write the log to data/logs");
    }
    let Known::Is(applied) = ground.look(Holder::Ourselves).applied().await else {
        return Err(Error::new(Exit::Failed, "cannot read the applied generation"));
    };
    let number = applied.number;
    let groups = applied
        .specs
        .keys()
        .filter(|id| matches!(id, crate::resource::ResourceId::Group(_)))
        .count();
    let follow = args.follow;
    let start = Start { role: Role::Up, ground, lock, store, applied, follow };
    let serving = serve::serve(start, context).await?;
    tracing::info!(generation = number, "the controller is ready");
    let plural = if groups == 1 { "" } else { "s" };
    context.progress(&format!(
        "Up: generation {number}, {groups} group{plural}. `babybot status` shows more, Ctrl-C stops.\n"
    ));
    if std::env::var_os(DETACHED).is_some() {
        // Nobody reads on: all else is in the log, which has a bound.
        let null = std::fs::File::options().write(true).open("/dev/null").map_err(failed)?;
        rustix::stdio::dup2_stderr(null).map_err(|error| failed(error.into()))?;
    }
    let manager = tokio::spawn(tell_manager());
    let mut lost = None;
    let patience = tokio::select! {
        patience = serving.controller.asked_to_end() => patience.unwrap_or(PATIENCE),
        _ = interrupt.recv() => PATIENCE,
        _ = terminate.recv() => PATIENCE,
        what = serving.lost() => {
            lost = Some(what);
            Duration::ZERO
        }
    };
    manager.abort();
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    match &lost {
        Some(lost) => tracing::error!("stopping at once: {lost}"),
        None => {
            tracing::info!("the controller is stopping");
            context.progress("Finishing the current work; press Ctrl-C again to stop at once.\n");
        }
    }
    end(serving, patience, &mut interrupt, &mut terminate).await;
    tracing::info!("the controller has stopped");
    match lost {
        Some(lost) => Err(stopped_by(&lost)),
        None => {
            context.progress("Stopped.\n");
            Ok(Exit::Ok)
        }
    }
}

/// Why the controller stopped although nobody asked it to.
fn stopped_by(lost: &Lost) -> Error {
    let hint = match lost {
        Lost::Project(_) => {
            "run `babybot status` in the folder that is the project now: it says how to go on"
        }
        Lost::Data(_) => {
            "put it back from where it was moved or from a backup, then run `babybot up`; without \
             it, `babybot apply` begins anew"
        }
    };
    let text = format!("stopped, and ended all agents: {lost} while the controller ran");
    Error::new(Exit::Failed, text).hinted(hint)
}

/// Ends the controller; at once, where somebody insists.
async fn end(serving: Serving, patience: Duration, interrupt: &mut Signal, terminate: &mut Signal) {
    let shutdown = serving.controller.shutdown();
    let mut ending = std::pin::pin!(serving.end(patience));
    tokio::select! {
        () = &mut ending => return,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.hurry().await;
    ending.await;
}

/// Tells systemd, where it asks to be told, that the controller serves, and goes on to.
async fn tell_manager() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(every / 2);
    loop {
        ticks.tick().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Asks a controller that does not last to make way, and waits until it has.
async fn make_way(client: &Client, project: &Project, wait: Period) -> Result<(), Error> {
    let holder = || match project.lock_holder() {
        Ok(Some(holder)) => holder,
        _ => format!("pid {}", client.hello().pid),
    };
    if client.hello().role == Role::Up {
        return Err(running(&holder()));
    }
    let until = Instant::now() + wait.as_duration();
    let patience = wait.as_duration() / 2;
    let asked = client.shut_down(patience).await;
    asked.map_err(|error| control_error("stop the running chat", &error))?;
    while project.lock_holder().map_err(project_error)?.is_some() {
        if Instant::now() >= until {
            let why = format!("{} did not stop within {wait}", holder());
            return Err(Error::new(Exit::Locked, why).hinted("use a longer --wait"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Starts the controller in the background, and waits until it serves.
async fn detach(args: &UpArgs, context: &Context, project: &Project) -> VerbResult {
    let failed = |error: io::Error| Error::failed("start in the background", &error);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("babybot").arg("--manifest").arg(&context.manifest).arg("up");
    if args.follow {
        command.arg("--follow");
    }
    command.arg("--wait").arg(args.wait.to_string()).env(DETACHED, "1");
    let errors = tempfile::NamedTempFile::new().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.reopen().map_err(failed)?);
    let mut child = command.spawn().map_err(failed)?;
    let instance = project.instance(&SystemClock).map_err(project_error)?;
    let until = Instant::now() + READY_MAX;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            let said = std::fs::read_to_string(errors.path()).unwrap_or_default();
            tell(&said);
            // What it said says why, and its code is the verb's.
            return match status.code().and_then(|code| u8::try_from(code).ok()) {
                Some(code @ 1..) => Ok(Exit::Command(code)),
                _ => {
                    let text = format!("the controller ended before it was ready, with {status}");
                    Err(Error::new(Exit::Failed, text))
                }
            };
        }
        let client = Client::connect(&project.data(), &instance).await;
        if let Ok(Some(client)) = client
            && client.hello().pid == child.id()
        {
            context.progress(&format!(
                "Up in the background, pid {}. `babybot status` shows it, `babybot logs` shows its \
                 log, `babybot down` stops it.\n",
                child.id()
            ));
            return Ok(Exit::Ok);
        }
        if Instant::now() >= until {
            let text = format!("the controller (pid {}) is not ready yet", child.id());
            return Err(Error::new(Exit::Failed, text).hinted("run `babybot logs` to see why"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
