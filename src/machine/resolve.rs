//! What a manifest means on this machine.

use std::collections::BTreeMap;

use super::HostContext;
use crate::desired::{self, Choice, Desired, Setting};
use crate::error::{Error, Exit};
use crate::manifest::{self, KindWish, Manifest};
use crate::name::GroupName;
use crate::project::Project;
use crate::resource::{
    self, Capabilities, EnforcedLimits, ImageSpec, ResourceId, RuntimeKind, RuntimeRef, Spec,
    UserId,
};
use crate::runtime::docker::places::{self, HostEnvironment};
use crate::runtime::docker::unmountable;

/// Whose environment says something instead of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// This process's own: of whoever plans.
    Own,
    /// What was applied: until somebody applies again, a controller's own says nothing.
    Applied,
}

impl HostContext {
    /// Works out what the manifest means on this machine, after looking for what it needs.
    ///
    /// # Errors
    /// When the environment says something that cannot be, when there is no runtime that the
    /// manifest takes, or no binary for an image.
    pub async fn resolve(
        &mut self,
        written: &Manifest,
        environment: Environment,
    ) -> Result<Desired, Error> {
        let before = self.applied().await.map(|applied| applied.specs).unwrap_or_default();
        let applied = resource::instance(&before).cloned();
        let set = |name: &str| match environment {
            Environment::Own => std::env::var(name).ok(),
            Environment::Applied => applied.as_ref()?.environment.get(name).cloned(),
        };
        let (manifest, overrides) = manifest::overrides(written, &set).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Error::new(Exit::ManifestInvalid, lines.join("\n"))
                .hinted("change the variable, or unset it")
        })?;
        let recorded = resource::engine(&before);
        let applied = applied.map(|instance| instance.runtime.kind);
        self.used = resource::runtimes(&before);
        let wish = &manifest.runtime;
        let named = wish.docker_host.as_ref().map(|host| host.value.as_str());
        // What was left at an engine is found, whatever is asked for now.
        let images = |kind| Capabilities::expected(kind).images;
        let named_by_group =
            manifest.groups.values().any(|group| group.runtime.is_some_and(images));
        if wish.kind.value != KindWish::None
            || named_by_group
            || self.used.values().any(|used| images(used.kind))
            || self.used_engines().await
        {
            let places = places::places(named, recorded.as_deref(), &HostEnvironment);
            self.need_docker(places).await;
        }
        let runtime = desired::choose(wish, &self.docker, applied).map_err(|error| {
            Error::new(Exit::Failed, error.to_string())
                .hinted("start or install Docker or Podman, or write `runtime.fallback = \"none\"`")
        })?;
        let served = named_by_group || images(runtime.kind);
        if let Some(why) = served.then(|| unmountable(self.project.root())).flatten() {
            return Err(Error::new(Exit::Failed, format!("containers cannot have {why}"))
                .hinted("move the project to a path without such characters"));
        }
        let info = self.info.as_ref().filter(|_| served);
        let engine = info.map(|info| info.capabilities.limits).unwrap_or(EnforcedLimits::ALL);
        refuse_unenforced(&manifest, &runtime, engine)?;
        let warnings = info.map(|info| info.warnings.clone()).unwrap_or_default();
        let user = served.then(|| self.user());
        let users = self.users(&manifest, user, before.clone()).await;
        let setting = Setting {
            capabilities: self.capabilities(&before),
            users,
            owner: user.filter(|user| self.has_to_give(*user)),
            user,
            engine: self.engine(recorded),
            // An engine that does not answer now is still what it was.
            binary: self.content(&manifest, served)?.or_else(|| content_of(&before)),
            runtime,
            warnings,
            overrides,
            root: rustix::process::geteuid().is_root() && self.project.owner().is_none(),
        };
        Ok(Desired::new(&manifest, &setting))
    }

    /// What the runtimes can do that were asked, or else what was applied says.
    fn capabilities(
        &self,
        before: &BTreeMap<ResourceId, Spec>,
    ) -> BTreeMap<RuntimeKind, Capabilities> {
        let groups = before.values().filter_map(|spec| match spec {
            Spec::Group(group) => Some((group.runtime, group.capabilities)),
            _ => None,
        });
        let asked =
            self.info.as_ref().map(|info| (RuntimeRef::docker(None).kind, info.capabilities));
        groups.chain(asked).collect()
    }

    /// Where the engine is: the one that was found, or the only place for it, or the one before.
    fn engine(&self, recorded: Option<String>) -> Option<String> {
        let only = || self.asked.as_ref()?.only().map(ToOwned::to_owned);
        self.endpoint().or_else(only).or(recorded)
    }

    /// Whom agents of containers run as.
    fn user(&self) -> UserId {
        if let Some((uid, gid)) = self.info.as_ref().and_then(|info| info.user) {
            return UserId { uid, gid };
        }
        if let Some((uid, gid)) = self.project.owner() {
            return UserId { uid, gid };
        }
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            return desired::USER_DEFAULT;
        }
        UserId { uid: uid.as_raw(), gid: gid.as_raw() }
    }

    /// Whom the agents of groups run as where each can be somebody else.
    async fn users(
        &self,
        manifest: &Manifest,
        user: Option<UserId>,
        before: BTreeMap<ResourceId, Spec>,
    ) -> BTreeMap<GroupName, UserId> {
        if user != Some(desired::USER_DEFAULT) || !rustix::process::geteuid().is_root() {
            return BTreeMap::new();
        }
        let groups: Vec<GroupName> = manifest.groups.keys().cloned().collect();
        let claim = move |project: &Project| {
            desired::claim_users(groups.iter(), &before, &project.group_owners())
        };
        self.project.blocking(claim).await.unwrap_or_default()
    }

    /// Whether a group's folders would otherwise belong to somebody else than its agent.
    fn has_to_give(&self, user: UserId) -> bool {
        rustix::process::geteuid().is_root() && user.uid != 0
    }
}

/// What the image was built around that was applied.
fn content_of(specs: &BTreeMap<ResourceId, Spec>) -> Option<String> {
    specs.values().find_map(|spec| match spec {
        Spec::Image(ImageSpec::Built { content, .. }) => Some(content.clone()),
        _ => None,
    })
}

/// Refuses limits that are written where the choice came out as what cannot enforce them: by name,
/// this is a problem of the manifest alone.
fn refuse_unenforced(
    manifest: &Manifest,
    runtime: &Choice,
    engine: EnforcedLimits,
) -> Result<(), Error> {
    let written = manifest.groups.iter().flat_map(|(group, wish)| {
        let kind = wish.runtime.unwrap_or(runtime.kind);
        let able = Capabilities::expected(kind);
        let limits = if able.images { engine } else { able.limits };
        let missing = limits.missing();
        missing.filter(|limit| wish.fields.contains_key(*limit)).map(move |limit| (group, limit))
    });
    let written: Vec<String> =
        written.map(|(group, limit)| format!("{limit} of {group}")).collect();
    if written.is_empty() {
        return Ok(());
    }
    let (kind, reason) = (runtime.kind, &runtime.reason);
    let text = format!("runtime {} cannot enforce {} ({reason})", kind.word(), written.join(", "));
    let hint = match Capabilities::expected(kind).images {
        false => "leave it out, or start or install Docker or Podman",
        true => "leave it out, or have the engine's machine provide its control group",
    };
    Err(Error::new(Exit::ManifestInvalid, text).hinted(hint))
}
