//! What the agent keeps on disk, written whole or not at all.
//!
//! | path | holds |
//! |---|---|
//! | `FORMAT` | version of this layout; a newer one is refused |
//! | `LOCK` | one agent per folder |
//! | `identity/` | key and certificate |
//! | `servers.json` | where servers were last known to be |
//! | `set.json` | the last set without replicas and secrets |
//! | `replicas/ID/record.json` | spec, lifecycle and image facts of a replica |
//! | `replicas/ID/…` | its bundle, log and anonymous volumes (the drivers') |
//! | `volumes/`, `images/`, `shim/` | the drivers' |
//!
//! Secrets go to `run_dir` alone, for their owner alone: they outlive the agent, not the machine.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gantry_lifecycle::Machine;
use gantry_model::assignment::{Item, ReplicaItem};
use gantry_model::spec::DataKind;
use gantry_model::{Class, Problem, ReplicaId};
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the layout.
pub const FORMAT: u32 = 1;

/// The agent's folders.
pub struct Disk {
    data_dir: PathBuf,
    run_dir: PathBuf,
    _lock: Flock<File>,
}

/// A replica on disk: enough to go on with it when no server answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What the leader sent.
    pub item: ReplicaItem,
    /// Where its life stands.
    pub machine: Machine,
    /// What its image says, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageFacts>,
}

/// What of an image is needed while its container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The shell of health checks in shell form.
    pub shell: Vec<String>,
    /// The stop signal, if the image names one.
    pub stop_signal: Option<String>,
}

impl Disk {
    /// Opens the folders, making them where they are missing.
    ///
    /// # Errors
    /// When another agent uses them, a newer version wrote them, or the disk refuses.
    pub fn open(data_dir: &Path, run_dir: &Path) -> Result<Self, Problem> {
        for folder in [data_dir, run_dir] {
            make_private(folder).map_err(|error| refused("make", folder, &error))?;
        }
        let lock = lock(&data_dir.join("LOCK"))?;
        check_format(&data_dir.join("FORMAT"))?;
        let disk = Self {
            data_dir: data_dir.to_path_buf(),
            run_dir: run_dir.to_path_buf(),
            _lock: lock,
        };
        let replicas = disk.data_dir.join("replicas");
        make_private(&replicas).map_err(|error| refused("make", &replicas, &error))?;
        Ok(disk)
    }

    /// Folder of the identity.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.data_dir.join("identity")
    }

    /// Folder of a replica.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> PathBuf {
        self.data_dir.join("replicas").join(id.to_string())
    }

    /// Saves a replica's record.
    ///
    /// # Errors
    /// When the disk refuses; the former record is intact then.
    pub fn save_record(&self, record: &Record) -> Result<(), Problem> {
        let folder = self.replica(record.item.id);
        make_private(&folder).map_err(|error| refused("make", &folder, &error))?;
        write(&folder.join("record.json"), record)
    }

    /// Removes a replica's folder with all that is left in it. None there is fine.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget(&self, id: ReplicaId) -> Result<(), Problem> {
        let folder = self.replica(id);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused("remove", &folder, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All records. A damaged one is left out with a warning: its replica is assigned again, or a leftover.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, Problem> {
        let mut records = Vec::new();
        for id in self.replicas()? {
            match self.record(id) {
                Ok(Some(record)) if record.item.id == id => records.push(record),
                Ok(_) => {}
                Err(problem) => tracing::warn!(%problem, replica = %id, "a record is damaged and is not used"),
            }
        }
        Ok(records)
    }

    /// The record of one replica, if there is one.
    ///
    /// # Errors
    /// When it is damaged or cannot be read.
    pub fn record(&self, id: ReplicaId) -> Result<Option<Record>, Problem> {
        read(&self.replica(id).join("record.json"))
    }

    /// Replicas that have a folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn replicas(&self) -> Result<Vec<ReplicaId>, Problem> {
        let folder = self.data_dir.join("replicas");
        let entries = fs::read_dir(&folder).map_err(|error| refused("read", &folder, &error))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ids: Vec<ReplicaId> = names.filter_map(|name| name.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Saves a set: secrets in memory, the rest on disk, replicas not at all, since their records hold them.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save_set(&self, items: &[Item]) -> Result<(), Problem> {
        let is_secret = |item: &&Item| matches!(item, Item::Data(data) if data.kind == DataKind::Secret);
        let is_replica = |item: &&Item| matches!(item, Item::Replica(_));
        let secrets: Vec<_> = items.iter().filter(is_secret).collect();
        let rest: Vec<_> = items
            .iter()
            .filter(|item| !is_secret(item) && !is_replica(item))
            .collect();
        write(&self.run_dir.join("secrets.json"), &secrets)?;
        write(&self.data_dir.join("set.json"), &rest)
    }

    /// The set saved last; empty when there is none. A damaged one counts as none: the leader sends it again.
    #[must_use]
    pub fn load_set(&self) -> Vec<Item> {
        let files = [self.data_dir.join("set.json"), self.run_dir.join("secrets.json")];
        let load = |path: PathBuf| match read::<Vec<Item>>(&path) {
            Ok(items) => items.unwrap_or_default(),
            Err(problem) => {
                tracing::warn!(%problem, "a saved set is damaged and is not used");
                Vec::new()
            }
        };
        files.into_iter().flat_map(load).collect()
    }

    /// Saves where servers are.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save_servers(&self, servers: &[String]) -> Result<(), Problem> {
        write(&self.data_dir.join("servers.json"), &servers)
    }

    /// Where servers were last known to be.
    #[must_use]
    pub fn load_servers(&self) -> Vec<String> {
        read(&self.data_dir.join("servers.json"))
            .ok()
            .flatten()
            .unwrap_or_default()
    }
}

fn refused(act: &str, path: &Path, error: &io::Error) -> Problem {
    let class = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::Exhausted,
        io::ErrorKind::PermissionDenied => Class::Denied,
        _ => Class::Internal,
    };
    let remedy = match class {
        Class::Exhausted => "free some space on its file system",
        Class::Denied => "run the agent as root",
        _ => "",
    };
    Problem::new(class, "agent", format!("cannot {act} {}: {error}", path.display())).remedy(remedy)
}

fn make_private(folder: &Path) -> io::Result<()> {
    // Only what is made here is private: the folder given may exist with the mode that its owner chose.
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn lock(path: &Path) -> Result<Flock<File>, Problem> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file = file.map_err(|error| refused("open", path, &error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Problem::new(
            Class::Conflict,
            "agent",
            format!("another agent uses {}", path.parent().unwrap_or(path).display()),
        )
        .remedy("stop it, or give this one another data folder"),
        errno => refused("lock", path, &io::Error::from(errno)),
    })
}

fn check_format(path: &Path) -> Result<(), Problem> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return write_bytes(path, format!("{FORMAT}\n").as_bytes());
        }
        text => text.map_err(|error| refused("read", path, &error))?,
    };
    match text.trim().parse::<u32>() {
        Ok(version) if version <= FORMAT => Ok(()),
        Ok(version) => {
            let reason = format!("{} says version {version}, this program knows {FORMAT}", path.display());
            Err(Problem::new(Class::Conflict, "agent", reason).remedy("run the newer version of gantry that wrote it"))
        }
        Err(_) => {
            let reason = format!("{} is damaged: '{}' is not a version", path.display(), text.trim());
            Err(Problem::new(Class::Internal, "agent", reason).remedy(format!("write {FORMAT} into it")))
        }
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(value).expect("types of the model have text keys and no failing serializers");
    write_bytes(path, &bytes)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let fresh = path.with_extension("new");
    let attempt = || {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&fresh, path)?;
        File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    attempt().map_err(|error| refused("write", path, &error))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Problem> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|error| refused("read", path, &error))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Problem::new(
            Class::Internal,
            "agent",
            format!("{} is damaged: {error}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::object::DataRecord;
    use gantry_model::{Bytes64, DataId, Timestamp};
    use std::os::unix::fs::PermissionsExt;

    fn data(id: u64, kind: DataKind) -> Item {
        Item::Data(DataRecord {
            id: DataId(id),
            kind,
            namespace: "shop".parse().expect("a name"),
            name: "conf".parse().expect("a name"),
            version: 1,
            content: Bytes64(b"hush".to_vec()),
            labels: Default::default(),
            created_at: Timestamp(1),
        })
    }

    #[test]
    fn a_set_survives_and_secrets_stay_off_the_data_folder() {
        let (data_dir, run_dir) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let disk = Disk::open(data_dir.path(), run_dir.path()).expect("opened");
        assert_eq!(disk.load_set(), []);
        let items = [data(1, DataKind::Config), data(2, DataKind::Secret)];
        disk.save_set(&items).expect("saved");
        assert_eq!(disk.load_set(), items);
        let text = fs::read_to_string(data_dir.path().join("set.json")).expect("there");
        assert!(!text.contains("secret"), "{text}");
        let mode = fs::metadata(run_dir.path().join("secrets.json"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_second_agent_and_a_newer_layout_are_refused() {
        let (data_dir, run_dir) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let first = Disk::open(data_dir.path(), run_dir.path()).expect("opened");
        let problem = Disk::open(data_dir.path(), run_dir.path()).err().expect("in use");
        assert!(problem.reason.contains("another agent"), "{problem}");
        drop(first);
        fs::write(data_dir.path().join("FORMAT"), "2\n").expect("written");
        let problem = Disk::open(data_dir.path(), run_dir.path()).err().expect("newer");
        assert!(problem.reason.contains("version 2"), "{problem}");
        fs::write(data_dir.path().join("FORMAT"), "x").expect("written");
        assert!(Disk::open(data_dir.path(), run_dir.path()).is_err());
    }
}
