//! Records of containers on disk, written whole or not at all.
//!
//! A record is forced to the disk where it must outlive a loss of power: when the container was made, and whenever it became
//! something else. One of a container that goes with its end never is, for then there is nothing to go on with.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gantry_model::{Class, Problem, ReplicaId};

use super::record::Record;

/// What of a record is forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Force {
    Nothing,
    Content,
    /// Also that it replaces the one before.
    Replacement,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct RecordStore {
    folder: PathBuf,
}

impl RecordStore {
    /// Records below `containers/` of the agent's data folder.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Problem> {
        let folder = data_dir.join("containers");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| refused("make", &folder, &error))?;
        Ok(Self { folder })
    }

    /// Folder of a container.
    pub(crate) fn container(&self, id: ReplicaId) -> PathBuf {
        self.folder.join(id.to_string())
    }

    /// Makes the container's folder with its first record.
    pub(crate) fn create(&self, record: &Record) -> Result<(), Problem> {
        let folder = self.container(record.id);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| refused("make", &folder, &error))?;
        self.save(record)
    }

    /// Saves a record, unless the container's folder is gone.
    pub(crate) fn save(&self, record: &Record) -> Result<(), Problem> {
        self.write(record, Force::Replacement)
    }

    /// As [`RecordStore::save`], for the next agent, which finds it even if this one is killed now; after a loss of power it may
    /// find the record before this one. Says before a start what only the start makes true: its processes would be lost, too.
    pub(crate) fn announce(&self, record: &Record) -> Result<(), Problem> {
        self.write(record, Force::Content)
    }

    fn write(&self, record: &Record, force: Force) -> Result<(), Problem> {
        let force = if record.spec.auto_remove { Force::Nothing } else { force };
        let folder = self.container(record.id);
        let (path, fresh) = (folder.join("record.json"), folder.join("record.new"));
        let text = serde_json::to_vec(record).expect("types of the model have text keys and no failing serializers");
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(&text)?;
            // Whatever is found under the name later is whole.
            if force != Force::Nothing {
                file.sync_data()?;
            }
            fs::rename(&fresh, &path)?;
            if force == Force::Replacement {
                File::open(&folder)?.sync_all()
            } else {
                Ok(())
            }
        };
        match write() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused("write", &path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes a container's folder. None there is fine.
    pub(crate) fn forget(&self, id: ReplicaId) -> Result<(), Problem> {
        let folder = self.container(id);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused("remove", &folder, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Containers that have a folder, each with its record if that can be read.
    pub(crate) fn load(&self) -> Result<Vec<(ReplicaId, Option<Record>)>, Problem> {
        let entries = fs::read_dir(&self.folder).map_err(|error| refused("read", &self.folder, &error))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut found = Vec::new();
        for id in names.filter_map(|name| name.parse::<ReplicaId>().ok()) {
            let path = self.container(id).join("record.json");
            let record = match fs::read(&path).map(|text| serde_json::from_slice::<Record>(&text)) {
                Ok(Ok(record)) if record.id == id => Some(record),
                Ok(Ok(_)) => None,
                Ok(Err(error)) => {
                    tracing::error!(%error, path = %path.display(), "a container's record is damaged");
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "a container has no record");
                    None
                }
            };
            found.push((id, record));
        }
        found.sort_by_key(|(id, _)| *id);
        Ok(found)
    }
}

fn refused(act: &str, path: &Path, error: &io::Error) -> Problem {
    let class = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::Exhausted,
        _ => Class::Internal,
    };
    Problem::new(class, "container", format!("cannot {act} {}: {error}", path.display()))
}
