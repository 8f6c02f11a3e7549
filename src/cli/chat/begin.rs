//! What a conversation begins with: a controller to talk through, and a group to talk to.

use crate::cli::approve;
use crate::cli::chat::{ChatArgs, refuse_empty};
use crate::cli::join::join;
use crate::cli::load::{load, stderr_colors};
use crate::cli::preview::Preview;
use crate::cli::serve::{self, Own};
use crate::cli::{Context, apply};
use crate::clock::{Clock, SystemClock};
use crate::control::client::Client;
use crate::error::{Error, Exit};
use crate::machine::HostContext;
use crate::machine::project_error;
use crate::manifest::diagnostic::closest;
use crate::name::GroupName;
use crate::observe::{self, Holder, Look as _};
use crate::observed::{Applied, Known};
use crate::project::InstanceLock;
use crate::resource::{GroupSpec, ResourceId, Spec};
use crate::source;
use crate::store::Store;

pub(super) type Begun = (Client, Option<Own>, Applied);

/// Joins the controller that runs, or becomes one.
pub(super) async fn begin(
    args: &ChatArgs,
    said: Option<&String>,
    context: &Context,
) -> Result<Result<Begun, Exit>, Error> {
    let mut ground = HostContext::of_project(context.project())?;
    let (_, client) = join(context).await?;
    let look = ground.look(Holder::Another);
    match (client, look.applied().await) {
        (_, Known::Unknown(why)) => {
            Err(Error::new(Exit::Failed, format!("cannot read what was applied: {why}")))
        }
        (Some(client), Known::Is(applied)) => {
            choose_group(args.group.as_deref(), &applied)?;
            Ok(Ok((client, None, applied)))
        }
        (Some(_), Known::Absent) => Err(Error::new(Exit::Failed, "nothing has been applied yet")),
        (None, Known::Is(applied)) => {
            choose_group(args.group.as_deref(), &applied)?;
            refuse_empty(said)?;
            let (lock, store, applied) = serve::open_instance("chat", &ground).await?;
            mention_pending(&applied, &mut ground, context).await;
            let (client, own) =
                serve::serve_shortly(ground, lock, store, applied.clone(), context).await?;
            Ok(Ok((client, Some(own), applied)))
        }
        (None, Known::Absent) => {
            let (ground, lock, store, applied) = match apply_first(args, said, context).await? {
                Ok(ready) => ready,
                Err(exit) => return Ok(Err(exit)),
            };
            let (client, own) =
                serve::serve_shortly(ground, lock, store, applied.clone(), context).await?;
            Ok(Ok((client, Some(own), applied)))
        }
    }
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
    choose_group(args.group.as_deref(), &Applied { number: 0, specs })?;
    refuse_empty(said)?;
    context.progress(&preview.text_for_apply(context.stderr_color()));
    preview.refuse_strangers()?;
    let risks = approve::approve(&preview, &args.approval, context)?;
    let project = &preview.ground.project;
    let lock = project.lock("chat", SystemClock.now()).map_err(project_error)?;
    let store = apply::open_store(project, &lock)?;
    match apply::apply_plan(&source, &preview, risks, &lock, &store, context).await? {
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
    let Ok(desired) = ground.resolve(&source.manifest).await else { return };
    let observed = observe::observe(&desired, &ground.look(Holder::Ourselves)).await;
    let pending = crate::plan::plan(&desired, &observed);
    if !pending.is_empty() {
        let count = pending.steps.len();
        let changes = if count == 1 { "1 change is" } else { &format!("{count} changes are") };
        context.note(&format!("note: {changes} not applied (`babybot plan`); {running}\n"));
    }
}

/// The group that was named, or the main one, or the only one.
pub(super) fn choose_group(named: Option<&str>, applied: &Applied) -> Result<GroupName, Error> {
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
    if groups.is_empty() {
        return Err(
            Error::new(Exit::Failed, "no group is applied").hinted("run `babybot plan` to see why")
        );
    }
    let default = match (groups.iter().find(|(_, spec)| spec.main), groups.as_slice()) {
        (Some((main, _)), _) => Some(*main),
        (None, [(only, _)]) => Some(*only),
        (None, _) => None,
    };
    let Some(named) = named else {
        return default.cloned().ok_or_else(|| {
            let hint = format!("the groups are: {}", names.join(", "));
            usage("name a group: none of them is main".to_owned(), hint)
        });
    };
    if let Some((name, _)) = groups.iter().find(|(name, _)| name.as_str() == named) {
        return Ok((*name).clone());
    }
    let meant = closest(&named.to_lowercase(), names.iter().copied());
    let hint = match (meant, default) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some(default)) => format!(
            "the groups are: {}; to send this to {default}: babybot chat {default} {named:?}",
            names.join(", ")
        ),
        (None, None) => format!("the groups are: {}", names.join(", ")),
    };
    Err(usage(format!("there is no group `{named}`"), hint))
}

/// The names of the groups that were applied.
pub(super) fn group_names(applied: &Applied) -> Vec<GroupName> {
    let names = applied.specs.keys().filter_map(|id| match id {
        ResourceId::Group(name) => Some(name.clone()),
        _ => None,
    });
    names.collect()
}
