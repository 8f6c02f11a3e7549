//! What a conversation begins with: a controller to talk through, and a group to talk to.

use std::time::Instant;

use super::link::{self, Link};
use crate::channel::terminal::Terminal;
use crate::channel::{InboundEvent, Sender};
use crate::cli::apply::{ApplyFormat, Report};
use crate::cli::approve;
use crate::cli::chat::{ChatArgs, refuse_empty};
use crate::cli::join::join;
use crate::cli::load::{load, stderr_colors};
use crate::cli::preview::Preview;
use crate::cli::serve::{self, COMING_MAX, LOOK_EVERY, Own};
use crate::cli::{Context, apply};
use crate::clock::{Clock, SystemClock};
use crate::control::{ChatRequest, Said};
use crate::error::{Error, Exit};
use crate::host;
use crate::machine::{Environment, HostContext, project_error};
use crate::manifest::diagnostic::closest;
use crate::name::GroupName;
use crate::observe::{self, Holder, Look as _};
use crate::observed::{Applied, Known};
use crate::project::InstanceLock;
use crate::resource::{GroupSpec, ResourceId, Spec, Writers};
use crate::route::Routes;
use crate::source;
use crate::store::Store;

/// More groups than these are listed without a command for each.
const COMMANDS_MAX: usize = 3;

/// What a conversation begins with.
pub(super) struct Begun {
    /// The way to the group.
    pub(super) link: Link,
    /// The controller, where it is in this process.
    pub(super) own: Option<Own>,
    /// What was applied.
    pub(super) applied: Applied,
    /// What is to be said, and whether it is stored already.
    pub(super) said: Option<(Said, bool)>,
}

/// Joins the controller that runs, or becomes one. Where somebody else is just becoming it, that one
/// is waited for.
pub(super) async fn begin(
    args: &ChatArgs,
    text: Option<String>,
    context: &Context,
) -> Result<Result<Begun, Exit>, Error> {
    let until = Instant::now() + COMING_MAX;
    loop {
        let begun = begin_now(args, text.as_ref(), context).await;
        let passing = match &begun {
            Err(error) => error.exit(),
            Ok(Err(exit)) => *exit,
            Ok(Ok(_)) => return begun,
        };
        if !matches!(passing, Exit::Locked | Exit::PlanStale) || Instant::now() >= until {
            return begun;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn begin_now(
    args: &ChatArgs,
    text: Option<&String>,
    context: &Context,
) -> Result<Result<Begun, Exit>, Error> {
    let mut ground = HostContext::of_project(context.project())?;
    let (_, client) = join(context).await?;
    let look = ground.look(Holder::Another);
    let choose = |applied: &Applied| choose_group(args, applied, context);
    match (client, look.applied().await) {
        (_, Known::Unknown(why)) => {
            Err(Error::new(Exit::Failed, format!("cannot read what was applied: {why}")))
        }
        (Some(client), Known::Is(applied)) => {
            let group = choose(&applied)?;
            refuse_empty(text)?;
            let link = Link::new(client, link::request(&group));
            Ok(Ok(Begun { link, own: None, applied, said: text.map(|text| (said(text), false)) }))
        }
        (Some(_), Known::Absent) => Err(Error::new(Exit::Failed, "nothing has been applied yet")),
        (None, Known::Is(applied)) => {
            choose(&applied)?;
            refuse_empty(text)?;
            let (lock, store, applied) = serve::open_instance("chat", &ground).await?;
            let request = link::request(&choose(&applied)?);
            let said = keep(text, &request, &store, &applied).await?;
            mention_pending(&applied, &mut ground, context).await;
            let ready = (ground, lock, store, applied);
            become_controller(ready, request, said, context).await.map(Ok)
        }
        (None, Known::Absent) => {
            let ready = match apply_first(args, text, context).await? {
                Ok(ready) => ready,
                Err(exit) => return Ok(Err(exit)),
            };
            let (_, _, store, applied) = &ready;
            let request = link::request(&choose(applied)?);
            let said = keep(text, &request, store, applied).await?;
            become_controller(ready, request, said, context).await.map(Ok)
        }
    }
}

/// Stores what is to be said, before anything waits for a runtime or a model.
async fn keep(
    text: Option<&String>,
    request: &ChatRequest,
    store: &Store,
    applied: &Applied,
) -> Result<Option<Said>, Error> {
    let Some(said) = text.map(|text| said(text)) else { return Ok(None) };
    let Said { id, text } = said.clone();
    let sender = Sender { id: request.person.id.clone(), name: request.person.name.clone() };
    let (thread, now) = (request.thread.clone(), SystemClock.now());
    let message = Terminal::message(&request.group, thread, sender, (id, text), now);
    let event = InboundEvent::Message(Box::new(message));
    let routes = Routes::new(&applied.specs);
    let stored = host::accept(store, (&routes, &applied.specs), event, Writers::Owner, now).await;
    stored.map_err(serve::host_error)?;
    Ok(Some(said))
}

/// Becomes the controller. What is `said` is stored: whatever keeps the controller from coming does
/// not lose it.
async fn become_controller(
    (ground, lock, store, applied): (HostContext, InstanceLock, Store, Applied),
    request: ChatRequest,
    said: Option<Said>,
    context: &Context,
) -> Result<Begun, Error> {
    let served = serve::serve_shortly(ground, lock, store, applied.clone(), context).await;
    let (client, own) = served.map_err(|error| match &said {
        Some(_) => kept(&error),
        None => error,
    })?;
    let link = Link::new(client, request);
    Ok(Begun { link, own: Some(own), applied, said: said.map(|said| (said, true)) })
}

/// The error, with what became of the message.
fn kept(error: &Error) -> Error {
    let kept = Error::new(error.exit(), format!("{error}; your message is kept"));
    match error.hint() {
        Some(hint) => kept.hinted(hint),
        None => kept,
    }
}

fn said(text: &str) -> Said {
    Said { id: SystemClock.message_id(), text: text.to_owned() }
}

/// Applies the manifest where nothing was applied yet.
async fn apply_first(
    args: &ChatArgs,
    said: Option<&String>,
    context: &Context,
) -> Result<Result<(HostContext, InstanceLock, Store, Applied), Exit>, Error> {
    let source = match load(context) {
        Ok(source) => source,
        Err(exit) => return Ok(Err(exit)),
    };
    // A mistyped group is no reason to apply anything.
    let preview = Preview::with(&source, None, context).await?;
    let specs = preview.desired.resources.iter();
    let specs = specs.map(|(id, wanted)| (id.clone(), wanted.spec.clone())).collect();
    choose_group(args, &Applied { number: 0, specs }, context)?;
    refuse_empty(said)?;
    context.progress(&preview.text_for_apply(context.stderr_color()));
    preview.refuse_strangers()?;
    let risks = approve::approve(&preview, &args.approval, context).await?;
    let project = &preview.ground.project;
    let lock = project.lock("chat", SystemClock.now()).map_err(project_error)?;
    let store = apply::open_store(project, &lock)?;
    let report = Report::new(context, ApplyFormat::Human);
    match apply::apply_plan(&source, &preview, risks, &lock, &store, &report).await? {
        Exit::Ok => {}
        exit => return Ok(Err(exit)),
    }
    match preview.ground.look(Holder::Ourselves).applied().await {
        Known::Is(applied) => Ok(Ok((preview.ground, lock, store, applied))),
        _ => Err(Error::new(Exit::Failed, "the applied generation cannot be read")),
    }
}

/// One line where the manifest and what was applied differ.
async fn mention_pending(applied: &Applied, ground: &mut HostContext, context: &Context) {
    let running = format!("this runs generation {}", applied.number);
    let source = match source::read(&context.manifest) {
        Ok(source) => source,
        Err(report) => {
            context.note(&report.human(stderr_colors(context)));
            context.note(&format!("note: {} is not valid; {running}\n", report.name));
            return;
        }
    };
    let Ok(desired) = ground.resolve(&source.manifest, Environment::Own).await else { return };
    let observed = observe::observe(&desired, &ground.look(Holder::Ourselves)).await;
    let pending = crate::plan::plan(&desired, &observed);
    if !pending.is_empty() {
        let count = pending.steps.len();
        let changes = if count == 1 { "1 change is" } else { &format!("{count} changes are") };
        context.note(&format!("note: {changes} not applied (`babybot plan`); {running}\n"));
    }
}

/// The group that was named, or the main one, or the only one.
fn choose_group(args: &ChatArgs, applied: &Applied, context: &Context) -> Result<GroupName, Error> {
    let groups: Vec<(&GroupName, &GroupSpec)> = applied
        .specs
        .iter()
        .filter_map(|(id, spec)| match (id, spec) {
            (ResourceId::Group(name), Spec::Group(spec)) => Some((name, &**spec)),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    let usage = |message: String, hint: String| Error::new(Exit::Usage, message).hinted(hint);
    let argument = context.manifest_argument();
    if groups.is_empty() {
        return Err(Error::new(Exit::Failed, "no group is applied")
            .hinted(format!("run `babybot apply{argument}` for the rest")));
    }
    let default = match (groups.iter().find(|(_, spec)| spec.main), groups.as_slice()) {
        (Some((main, _)), _) => Some(*main),
        (None, [(only, _)]) => Some(*only),
        (None, _) => None,
    };
    let Some(named) = args.group.as_deref() else {
        return default.cloned().ok_or_else(|| {
            let message = "no group is named, and none of them is main".to_owned();
            usage(message, commands(&names, &argument))
        });
    };
    if let Some((name, _)) = groups.iter().find(|(name, _)| name.as_str() == named) {
        return Ok((*name).clone());
    }
    let written = source::read(&context.manifest);
    if written.is_ok_and(|source| source.manifest.groups.keys().any(|name| name.as_str() == named))
    {
        let hint = format!("run `babybot apply{argument}`");
        return Err(
            Error::new(Exit::Failed, format!("group `{named}` is not applied yet")).hinted(hint)
        );
    }
    let meant = closest(&named.to_lowercase(), names.iter().copied());
    let hint = match (meant, default) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        // One word alone may have been meant as the message.
        (None, Some(default)) if args.message.is_none() => format!(
            "run `babybot chat {default} {named:?}{argument}` to send this to {default}; the groups \
             are: {}",
            names.join(", ")
        ),
        (None, _) => format!("the groups are: {}", names.join(", ")),
    };
    Err(usage(format!("there is no group `{named}`"), hint))
}

/// The commands that talk to one of these groups.
fn commands(names: &[&str], argument: &str) -> String {
    if names.len() > COMMANDS_MAX {
        return format!("run `babybot chat GROUP{argument}`; the groups are: {}", names.join(", "));
    }
    let each = names.iter().map(|name| format!("`babybot chat {name}{argument}`"));
    format!("run {}", each.collect::<Vec<_>>().join(" or "))
}

/// The names of the groups that were applied.
pub(super) fn group_names(applied: &Applied) -> Vec<GroupName> {
    let names = applied.specs.keys().filter_map(|id| match id {
        ResourceId::Group(name) => Some(name.clone()),
        _ => None,
    });
    names.collect()
}
