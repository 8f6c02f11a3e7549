//! What a group's agent is started as, and told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::{Host, Worker};
use crate::channel::terminal::Terminal;
use crate::name::ChannelName;
use crate::protocol::{Disk, PathMapping, Welcome};
use crate::request;
use crate::resource::{self, ContainerSpec, ResourceId, Spec};
use crate::route::prompt::room;
use crate::runtime::{Access, HOME, Mount, SandboxSpec, WORKDIR};
use crate::session::{Reach, SessionSpec};
use crate::store::Conversation;
use crate::zone;

impl Worker {
    /// What the messages of a turn may take of its model's window, in bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        room(self.model.1.context())
    }

    /// The time zone of the group's prompts.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        let instance = resource::instance(&self.host.specs);
        let named = instance.and_then(|instance| instance.timezone.as_deref());
        named.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(|| self.host.zone.clone())
    }

    /// What the group's agent is started as.
    pub(super) fn session_spec(&self) -> SessionSpec {
        let Host { parts, instance, specs, generation, .. } = &self.host;
        let project = &parts.project;
        let container = ContainerSpec::of(&self.spec, specs);
        let user = match container.capabilities().images {
            false => project.owner(),
            true => container.user.map(|user| (user.uid, user.gid)),
        };
        SessionSpec {
            sandbox: SandboxSpec {
                instance: instance.clone(),
                group: self.group.clone(),
                incarnation: parts.clock.incarnation(),
                generation: *generation,
                mounts: self.mounts(),
                user,
                env: BTreeMap::new(),
                container,
            },
            welcome: self.welcome(),
            model: self.model.clone(),
            limits: self.spec.limits,
            reach: self.reach(),
        }
    }

    /// Where the agent may send: the main group's to every other group as well.
    pub(super) fn reach(&self) -> Reach {
        if !self.spec.main {
            return Reach::Own;
        }
        let others = self.host.specs.iter().filter_map(|(id, spec)| match (id, spec) {
            (ResourceId::Group(group), Spec::Group(spec)) if *group != self.group => {
                Some((group, spec))
            }
            _ => None,
        });
        let reached = others.map(|(group, spec)| {
            let mut bound = spec.bind.iter();
            let chat = bound.find_map(|bound| Some((bound.channel.clone(), bound.chat.clone()?)));
            let terminal = || (ChannelName::terminal(), Terminal::chat(group));
            let (channel, chat) = chat.unwrap_or_else(terminal);
            (group.clone(), Conversation { channel, chat, thread: None, sender: None })
        });
        Reach::Others(reached.collect())
    }

    /// What the agent is told about itself.
    pub(super) fn welcome(&self) -> Welcome {
        // A tool has the clock of the messages.
        let now = self.host.parts.clock.now().into();
        let mut env = self.host.env(&self.group);
        env.insert("TZ".to_owned(), zone::variable(&self.zone(), now));
        Welcome {
            group: self.group.clone(),
            assistant: resource::instance(&self.host.specs)
                .map_or_else(String::new, |instance| instance.assistant.clone()),
            model: self.model.1.wire_name().to_owned(),
            context: self.model.1.context(),
            output: self.spec.limits.output,
            disk: Disk { limit: self.spec.limits.disk, folders: self.written() },
            places: match self.spec.capabilities.mounts {
                false => self.places(),
                true => Vec::new(),
            },
            env,
            tools: request::tools(self.spec.main),
        }
    }

    /// The host's folders in a container.
    fn mounts(&self) -> Vec<Mount> {
        let project = &self.host.parts.project;
        let mount = |source: PathBuf, target: &str, access: Access| Mount {
            source,
            target: target.to_owned(),
            access,
        };
        // The main group keeps what all are told.
        let global = if self.spec.main { Access::Write } else { Access::Read };
        let mut mounts = vec![
            mount(project.group(&self.group), WORKDIR, Access::Write),
            mount(project.global(), "/workspace/global", global),
            mount(project.mailbox(&self.group), "/workspace/ipc", Access::Write),
            mount(project.session(&self.group), HOME, Access::Write),
        ];
        if self.spec.main {
            mounts.push(mount(project.view(), "/workspace/project", Access::Read));
        }
        mounts
    }

    /// The folders that the agent writes, as they are called where it runs.
    fn written(&self) -> Vec<String> {
        let written = self.mounts().into_iter().filter(|mount| mount.access == Access::Write);
        let called = written.map(|mount| match self.spec.capabilities.mounts {
            false => mount.source.to_string_lossy().into_owned(),
            true => mount.target,
        });
        called.collect()
    }

    /// Where the guest paths of a container are on this machine.
    fn places(&self) -> Vec<PathMapping> {
        let places = self.mounts().into_iter().map(|mount| PathMapping {
            guest: mount.target,
            host: mount.source.to_string_lossy().into_owned(),
        });
        places.collect()
    }
}
