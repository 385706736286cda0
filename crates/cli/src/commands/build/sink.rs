//! Where the result of a build goes on this machine: a folder, or a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gantry_model::{Class, Problem};

use crate::failure::file_problem;

/// `--export`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// An image of the node.
    #[default]
    Image,
    /// Files in a folder.
    Folder(PathBuf),
    /// Files as a tar; `-` is standard output.
    Tar(PathBuf),
    /// An OCI layout as a tar.
    Oci(PathBuf),
    /// What `docker load` takes.
    Docker(PathBuf),
    /// Nothing.
    Discard,
}

impl Target {
    /// From `type=TYPE,dest=PATH`; a path alone is a folder.
    ///
    /// # Errors
    /// When the type is unknown, or needs a destination that is missing.
    pub fn parse(text: Option<&str>) -> Result<Self, Problem> {
        let Some(text) = text else { return Ok(Self::Image) };
        let object = format!("--export {text}");
        let form = "write --export type=tar,dest=FILE; the types are image, local, tar, oci, docker and none";
        let refused = |reason: &str| Problem::new(Class::Invalid, object.clone(), reason).remedy(form);
        if !text.contains('=') {
            return Ok(if text == "-" {
                Self::Tar("-".into())
            } else {
                Self::Folder(text.into())
            });
        }
        let (mut kind, mut path) = ("", None);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = value,
                Some(("dest" | "destination", value)) => path = Some(PathBuf::from(value)),
                Some(_) | None => return Err(refused("cannot be understood")),
            }
        }
        let needed = || path.clone().ok_or_else(|| refused("names no destination"));
        let or_standard_output = || path.clone().unwrap_or_else(|| "-".into());
        match kind {
            "image" | "registry" => Ok(Self::Image),
            "local" => Ok(Self::Folder(needed()?)),
            "tar" => Ok(Self::Tar(or_standard_output())),
            "oci" => Ok(Self::Oci(or_standard_output())),
            "docker" if path.is_none() => Ok(Self::Image),
            "docker" => Ok(Self::Docker(or_standard_output())),
            "none" | "cacheonly" => Ok(Self::Discard),
            _ => Err(refused("names no known type")),
        }
    }

    /// Takes what the node sends back.
    ///
    /// # Errors
    /// When the file or folder cannot be made.
    pub fn open(&self) -> Result<Option<Sink>, Problem> {
        match self {
            Self::Image | Self::Discard => Ok(None),
            Self::Folder(path) => Sink::unpacking(path).map(Some),
            Self::Tar(path) | Self::Oci(path) | Self::Docker(path) if path.as_os_str() == "-" => {
                Ok(Some(Sink::Stream(Box::new(io::stdout()))))
            }
            Self::Tar(path) | Self::Oci(path) | Self::Docker(path) => {
                let file = File::create(path).map_err(|error| file_problem("be written", path, &error))?;
                Ok(Some(Sink::Stream(Box::new(file))))
            }
        }
    }
}

/// Something that takes bytes.
pub enum Sink {
    /// As they come.
    Stream(Box<dyn Write + Send>),
    /// Through `tar`, which knows about owners, devices and links that the person may or may not make.
    Unpacking(Child),
}

impl Sink {
    fn unpacking(folder: &Path) -> Result<Self, Problem> {
        fs::create_dir_all(folder).map_err(|error| file_problem("be made", folder, &error))?;
        let mut command = Command::new("tar");
        command
            .args(["--extract", "--file=-", "--no-same-owner", "--directory"])
            .arg(folder);
        let child = command.stdin(Stdio::piped()).spawn().map_err(|error| {
            Problem::new(Class::Unavailable, "tar", format!("cannot be run: {error}"))
                .remedy("install tar, or write --export type=tar,dest=FILE")
        })?;
        Ok(Self::Unpacking(child))
    }

    /// More bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(writer) => writer.write_all(bytes),
            Self::Unpacking(child) => match &mut child.stdin {
                Some(stdin) => stdin.write_all(bytes),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// All of it is there.
    ///
    /// # Errors
    /// When the last bytes cannot be written.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Stream(mut writer) => writer.flush(),
            Self::Unpacking(mut child) => {
                drop(child.stdin.take());
                let status = child.wait()?;
                if status.success() {
                    Ok(())
                } else {
                    Err(io::Error::other(format!("tar ended with {status}")))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_docker_writes_them() {
        for (text, expected) in [
            ("type=image", Target::Image),
            ("type=docker", Target::Image),
            ("type=local,dest=out", Target::Folder("out".into())),
            ("out", Target::Folder("out".into())),
            ("-", Target::Tar("-".into())),
            ("type=tar", Target::Tar("-".into())),
            ("type=oci,dest=a.tar", Target::Oci("a.tar".into())),
            ("type=docker,dest=a.tar", Target::Docker("a.tar".into())),
            ("type=cacheonly", Target::Discard),
        ] {
            assert_eq!(Target::parse(Some(text)).expect(text), expected);
        }
        for text in ["type=local", "type=x", "kind=tar", "dest=x"] {
            assert!(Target::parse(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tar_becomes_a_folder() {
        let place = tempfile::tempdir().expect("a folder");
        let target = Target::Folder(place.path().join("out"));
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, "dir/file", &b"hi"[..])
            .expect("packed");
        let bytes = archive.into_inner().expect("packed");
        let mut sink = target.open().expect("opened").expect("a sink");
        sink.write(&bytes).expect("written");
        sink.finish().expect("unpacked");
        assert_eq!(fs::read(place.path().join("out/dir/file")).expect("read"), b"hi");
    }
}
