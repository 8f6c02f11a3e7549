//! Where tools work, and where a path of the model leads.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::super::clock;
use crate::protocol::{PathMapping, Welcome};

/// Smallest and largest number of characters of a result that a model is given.
const RESULT_CHARACTERS: (u64, u64) = (1_600, 24_000);

/// The folders of an agent, as it finds them when it starts.
#[derive(Clone, Debug)]
pub(in super::super) struct Folders {
    /// The group's folder, where tools work.
    pub(in super::super) workdir: PathBuf,
    /// The agent's home.
    pub(in super::super) home: PathBuf,
}

impl Folders {
    /// Finds them.
    pub(in super::super) fn find() -> io::Result<Self> {
        let workdir = std::env::current_dir()?;
        let home = std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .ok_or_else(|| io::Error::other("HOME is not set"))?;
        Ok(Self { workdir, home })
    }
}

/// What all tools of an agent share.
#[derive(Debug)]
pub(super) struct Workbench {
    pub(super) folders: Folders,
    places: Vec<PathMapping>,
    /// What a command has in its environment besides the agent's own.
    pub(super) env: Vec<(String, String)>,
    /// What is kept of one call's output, in bytes.
    pub(super) output_max: u64,
    /// What the model is given of it, in bytes.
    pub(super) result_max: usize,
}

impl Workbench {
    /// The workbench of an agent that was welcomed like this.
    pub(super) fn new(folders: &Folders, welcome: &Welcome) -> Self {
        let (least, most) = RESULT_CHARACTERS;
        // 15 % of the window, at four characters a token.
        let share = u64::from(welcome.context) * 4 * 15 / 100;
        let env = welcome.env.iter();
        let env = env.map(|(name, value)| (name.clone(), clock::understood(name, value.clone())));
        Self {
            folders: folders.clone(),
            places: welcome.places.clone(),
            env: env.collect(),
            output_max: welcome.output.as_bytes(),
            result_max: usize::try_from(share.clamp(least, most)).unwrap_or(usize::MAX),
        }
    }

    /// The real path of what the model calls `path`.
    ///
    /// In a container every path is the sandbox's own. Where nothing walls the agent in, the
    /// file tools keep to the group's places, links followed; the shell keeps to nothing.
    pub(super) fn resolve(&self, path: &str) -> Result<PathBuf, String> {
        let path = self.locate(path);
        if self.places.is_empty() {
            return Ok(path);
        }
        let real = real_path(&path);
        let places = self.places.iter().map(|place| PathBuf::from(&place.host));
        let allowed = places.chain([self.folders.home.clone(), self.folders.workdir.clone()]);
        for place in allowed {
            if real.starts_with(std::fs::canonicalize(&place).unwrap_or(place)) {
                return Ok(path);
            }
        }
        Err(format!("{}: outside this group's folders", path.display()))
    }

    fn locate(&self, path: &str) -> PathBuf {
        if let Some(below) = path.strip_prefix("~/") {
            return self.folders.home.join(below);
        }
        let written = Path::new(path);
        for place in &self.places {
            if let Ok(below) = written.strip_prefix(&place.guest) {
                return Path::new(&place.host).join(below);
            }
        }
        self.folders.workdir.join(written)
    }
}

/// Where a path leads, as far as it is there; what is not there yet is appended as it is written.
fn real_path(path: &Path) -> PathBuf {
    for folder in path.ancestors() {
        if let Ok(real) = std::fs::canonicalize(folder) {
            let rest = path.strip_prefix(folder).unwrap_or(Path::new(""));
            return rest.components().fold(real, |mut real, component| {
                match component {
                    Component::ParentDir => {
                        real.pop();
                    }
                    component => real.push(component),
                }
                real
            });
        }
    }
    path.to_path_buf()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Bench, call};
    use super::*;

    #[test]
    fn a_guest_path_means_the_same_everywhere() {
        let root = tempfile::tempdir().unwrap();
        let bench = Bench::new(root.path(), 1);
        let bench = Workbench::new(&bench.folders, &bench.welcome);
        let group = root.path().join("group");
        assert_eq!(bench.locate("/workspace/group/a/b"), group.join("a/b"));
        assert_eq!(bench.locate("a"), group.join("a"));
        assert_eq!(bench.locate("~/x"), root.path().join("home/x"));
        assert_eq!(bench.locate("/workspace/groupies"), Path::new("/workspace/groupies"));
    }

    #[tokio::test]
    async fn without_a_wall_the_file_tools_keep_to_the_groups_places() {
        let root = tempfile::tempdir().unwrap();
        let bench = Bench::new(root.path(), 1 << 20);
        let tools = bench.tools();
        let secret = root.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        std::os::unix::fs::symlink(&secret, bench.folders.workdir.join("link")).unwrap();
        for path in ["../secret", "link", "/etc/passwd", "new/../../secret"] {
            let read = call(&tools, "bb_read_file", json!({"path": path})).await;
            assert!(read.ends_with("outside this group's folders"), "{path}: {read}");
            let written =
                call(&tools, "bb_write_file", json!({"path": path, "content": "x"})).await;
            assert!(written.ends_with("outside this group's folders"), "{path}: {written}");
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "secret");
        let inside = call(&tools, "bb_write_file", json!({"path": "a/b", "content": "x"})).await;
        assert_eq!(inside, "wrote 1 bytes to a/b");
    }
}
