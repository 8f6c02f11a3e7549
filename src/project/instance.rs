//! Whose a project folder is: its instance, and the place where that was made.
//!
//! A folder that was copied, moved to another file system or restored from a backup carries an
//! instance that may still be another folder's. Nobody works with it until a person says which of
//! the two it is.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{InstanceLock, Project, ProjectError, SMALL_FILE_MAX, io_at};
use crate::clock::Clock;
use crate::name::InstanceId;
use crate::process;

/// The file of `data/` that holds the instance.
const FILE: &str = "instance";

/// What `data/instance` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct InstanceFile {
    instance: InstanceId,
    machine: String,
    boot: String,
    device: u64,
    inode: u64,
    /// The project folder; files of old do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<PathBuf>,
}

/// Where an instance was made, seen from a folder that is not that place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another machine.
    Machine,
    /// Another folder of this machine, where it is known which.
    Folder(Option<PathBuf>),
}

/// What a person says of a folder that is not where its instance was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the same project, moved or restored: it keeps the instance.
    Moved,
    /// It is a copy: it becomes an instance of its own.
    Copy,
}

/// A claim that a person may approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// What the folder is said to be.
    pub claim: Claim,
    /// The instance that its file names.
    pub was: InstanceId,
    /// Where that was made.
    pub origin: Origin,
    /// The instance that it is to be.
    pub becomes: InstanceId,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine => f.write_str("on another machine"),
            Self::Folder(Some(folder)) => write!(f, "in {}", folder.display()),
            Self::Folder(None) => f.write_str("in another folder"),
        }
    }
}

impl Project {
    /// The instance of this folder; made now if it has none.
    ///
    /// # Errors
    /// When the folder was moved or copied, or the file cannot be read or written.
    pub fn instance(&self, clock: &dyn Clock) -> Result<InstanceId, ProjectError> {
        match self.known_instance()? {
            Some(instance) => Ok(instance),
            None => {
                self.prepare()?;
                let instance = clock.instance_id();
                self.write_instance(&instance)?;
                Ok(instance)
            }
        }
    }

    /// The instance of this folder, if it has one.
    ///
    /// # Errors
    /// When the folder was moved or copied, or the file cannot be read.
    pub fn known_instance(&self) -> Result<Option<InstanceId>, ProjectError> {
        if let Some(claimed) = &self.claimed {
            return Ok(Some(claimed.clone()));
        }
        let Some(file) = self.read_instance()? else { return Ok(None) };
        match self.origin_of(&file)? {
            None => Ok(Some(file.instance)),
            Some(origin) => Err(ProjectError::Moved {
                folder: self.root.clone(),
                instance: file.instance,
                origin,
            }),
        }
    }

    /// What a claim to this folder's instance means; `None` where the folder is where its instance
    /// was made, and so needs no claim.
    ///
    /// # Errors
    /// When the file cannot be read, or the original is still where it was and is to keep its
    /// instance.
    pub fn relocation(
        &self,
        claim: Claim,
        clock: &dyn Clock,
    ) -> Result<Option<Relocation>, ProjectError> {
        let Some(file) = self.read_instance()? else { return Ok(None) };
        let Some(origin) = self.origin_of(&file)? else { return Ok(None) };
        let was = file.instance;
        let becomes = match claim {
            Claim::Copy => clock.instance_id(),
            Claim::Moved => was.clone(),
        };
        if claim == Claim::Moved
            && let Origin::Folder(Some(folder)) = &origin
            && let Ok(original) = Self::open(folder)
            && original.known_instance().ok().flatten().as_ref() == Some(&was)
        {
            return Err(ProjectError::Original { folder: folder.clone(), instance: was });
        }
        Ok(Some(Relocation { claim, was, origin, becomes }))
    }

    /// The same project as it will be once a claim is settled. Changes nothing on disk.
    #[must_use]
    pub fn claimed_by(&self, relocation: &Relocation) -> Self {
        Self { claimed: Some(relocation.becomes.clone()), ..self.clone() }
    }

    /// Writes down that this folder is where its instance belongs, as a person approved it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn relocate(
        &self,
        relocation: &Relocation,
        _lock: &InstanceLock,
    ) -> Result<(), ProjectError> {
        self.write_instance(&relocation.becomes)
    }

    /// Writes the instance of this folder again, where its file was removed or damaged. Returns
    /// whether it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn renew_instance(
        &self,
        instance: &InstanceId,
        _lock: &InstanceLock,
    ) -> Result<bool, ProjectError> {
        match self.known_instance() {
            Ok(Some(known)) if known == *instance => Ok(false),
            _ => self.write_instance(instance).map(|()| true),
        }
    }

    fn read_instance(&self) -> Result<Option<InstanceFile>, ProjectError> {
        let path = self.data().join(FILE);
        let read = self.folder(&self.data()).and_then(|data| data.read(FILE, SMALL_FILE_MAX));
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_at(&path, source)),
        };
        let file = serde_json::from_slice(&bytes).map_err(|error| {
            let problem = format!("not a valid instance file ({error})");
            ProjectError::Content { path, problem }
        })?;
        Ok(Some(file))
    }

    /// Where an instance was made, if not in this folder.
    fn origin_of(&self, file: &InstanceFile) -> Result<Option<Origin>, ProjectError> {
        let here = self.place(&file.instance)?;
        if file.machine != here.machine {
            return Ok(Some(Origin::Machine));
        }
        // Some file systems get another device number at every boot.
        let same_device = file.device == here.device || file.boot != here.boot;
        let same = file.inode == here.inode && same_device;
        Ok((!same).then(|| Origin::Folder(file.folder.clone())))
    }

    fn write_instance(&self, instance: &InstanceId) -> Result<(), ProjectError> {
        let path = self.data().join(FILE);
        let io = |source| io_at(&path, source);
        let file = self.place(instance)?;
        let text = serde_json::to_vec_pretty(&file).map_err(|error| io(error.into()))?;
        let folder = self.folder(&self.data()).map_err(io)?;
        folder.write(FILE, &text, 0o600, self.owner).map_err(io)
    }

    /// Where the data folder is, in the machine's own terms.
    fn place(&self, instance: &InstanceId) -> Result<InstanceFile, ProjectError> {
        let data = self.data();
        let metadata = fs::metadata(&data).map_err(|source| io_at(&data, source))?;
        Ok(InstanceFile {
            instance: instance.clone(),
            machine: machine_id(Path::new("/etc/machine-id")),
            boot: process::boot_id(),
            device: metadata.dev(),
            inode: metadata.ino(),
            folder: Some(self.root.clone()),
        })
    }
}

fn machine_id(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
