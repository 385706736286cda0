//! `COPY` and the plain part of `ADD`: files of a tree into another one, with the rules of BuildKit.
//!
//! - A destination that ends with `/` is a folder and is made; folders on the way are made too (mode 0755, the given owner).
//! - A folder's content is copied, not the folder; a file goes into a destination that is a folder, and becomes one that is not.
//! - A link that is named is followed; links inside a folder are copied as links.
//! - An existing folder keeps its mode and owner when it is the destination, and gets the source's below it.
//!
//! **Invariant:** nothing is looked up outside the destination's root: folders are opened in it by the kernel, and what is in
//! them by name only.

mod place;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use gantry_dockerfile::{Chmod, Diagnostic, IgnoreRules, InlineFile};
use gantry_shim::users;
use gantry_sys::path::open_in_root;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::cancel::Cancel;
use crate::error::{BuildError, Result};
use crate::overlay::View;
use crate::tree::{Node, NodeKind, Picked, Tree};

pub(crate) use place::{Meta, Spot, ensure_folder};

/// Mode of files that the Dockerfile itself holds.
const INLINE_MODE: u32 = 0o644;

/// `--exclude`: relative to the folder that is copied, or the name of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Excluded(IgnoreRules);

impl Excluded {
    pub(crate) fn new(patterns: &[String]) -> Result<Self> {
        let rules = IgnoreRules::from_patterns(patterns.iter().map(String::as_str));
        rules
            .map(Self)
            .map_err(|error| BuildError::Dockerfile(Diagnostic::error(None, error.to_string())))
    }

    pub(crate) fn leaves_out(&self, path: &Path) -> bool {
        !self.0.is_empty() && self.0.is_ignored(&path.to_string_lossy())
    }

    pub(crate) fn has_exceptions(&self) -> bool {
        self.0.has_exceptions()
    }
}

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Looks `user[:group]` up in the tree's own accounts. As in Docker, a group that is not given has the user's number.
    pub(crate) fn look_up(accounts: Option<&View>, text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let numbers = (user.parse::<u32>(), group.map_or(user, |group| group).parse::<u32>());
        if let (Ok(uid), Ok(gid)) = numbers {
            return Ok(Self { uid, gid });
        }
        let read = |path: &str| accounts.map_or(Ok(String::new()), |view| read_accounts(view, path));
        let (passwd, groups) = (read("etc/passwd")?, read("etc/group")?);
        let user = if user.is_empty() { "0" } else { user };
        let found = users::resolve((user, group), &[], &passwd, &groups);
        let found = found.map_err(|unknown| BuildError::Account(unknown.to_string()))?;
        let gid = match (group, user.parse::<u32>()) {
            (None, Ok(number)) => number,
            _ => found.gid,
        };
        Ok(Self { uid: found.uid, gid })
    }
}

fn read_accounts(view: &View, path: &str) -> Result<String> {
    use std::io::Read;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let file = match open_in_root(view, Path::new(path), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(BuildError::errno("open", path)(errno)),
    };
    let mut bytes = Vec::new();
    file.take(users::FILE_LENGTH_MAX)
        .read_to_end(&mut bytes)
        .map_err(BuildError::io("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How files get to their destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placement {
    /// Everything becomes theirs; kept as it is when absent.
    pub(crate) owner: Option<Owner>,
    /// Everything gets this mode; kept as it is when absent.
    pub(crate) chmod: Option<Chmod>,
    /// Left out.
    pub(crate) excluded: Excluded,
}

impl Placement {
    pub(crate) fn meta(&self, node: &Node, attributes: Vec<(std::ffi::OsString, Vec<u8>)>) -> Meta {
        let owner = self.owner.unwrap_or(Owner {
            uid: node.uid,
            gid: node.gid,
        });
        let mode = match &self.chmod {
            Some(chmod) if !matches!(node.kind, NodeKind::Link(_)) => chmod.apply(node.mode, node.is_folder()),
            _ => node.mode,
        };
        Meta {
            uid: owner.uid,
            gid: owner.gid,
            mode,
            mtime: node.mtime,
            attributes,
        }
    }
}

/// Copies into one root.
pub(crate) struct Copier<'a> {
    root: &'a View,
    placement: Placement,
    cancel: &'a Cancel,
    /// Where the first name of a file with several names went.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// What is at the destination.
enum Existing {
    Nothing,
    Folder,
    Other,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(root: &'a View, placement: Placement, cancel: &'a Cancel) -> Self {
        Self {
            root,
            placement,
            cancel,
            linked: HashMap::new(),
        }
    }

    fn existing(&self, path: &Path) -> Result<Existing> {
        match open_in_root(self.root, path, OFlag::O_PATH, Mode::empty()) {
            Ok(found) => {
                let stat = nix::sys::stat::fstat(&found).map_err(BuildError::errno("examine", path))?;
                let is_folder = stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR;
                Ok(if is_folder { Existing::Folder } else { Existing::Other })
            }
            Err(nix::Error::ENOENT) => Ok(Existing::Nothing),
            Err(nix::Error::ENOTDIR) => Err(BuildError::Destination {
                path: path.display().to_string(),
                reason: "a folder above it is a file",
            }),
            Err(errno) => Err(BuildError::errno("look up", path)(errno)),
        }
    }

    /// Where a file of this name goes: makes the folders on the way.
    pub(crate) fn file_spot(&self, destination: &str, name: &OsStr) -> Result<Spot> {
        let path = Path::new(destination);
        if destination.ends_with('/') || matches!(self.existing(path)?, Existing::Folder) {
            return self.spot(path, name);
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or(name);
        self.spot(parent, name)
    }

    fn spot(&self, folder: &Path, name: &OsStr) -> Result<Spot> {
        Ok(Spot {
            folder: self.folder(folder)?,
            name: name.to_os_string(),
            path: folder.join(name),
        })
    }

    /// Opens a folder of the destination, and makes it if needed.
    pub(crate) fn folder(&self, path: &Path) -> Result<Rc<OwnedFd>> {
        ensure_folder(self.root, path, self.placement.owner).map(Rc::new)
    }

    /// Copies one place of a tree.
    pub(crate) fn copy(&mut self, tree: &dyn Tree, picked: &Picked, destination: &str) -> Result<()> {
        let Some(node) = tree.node(&picked.path)? else {
            return Ok(());
        };
        let name = picked.name.file_name().unwrap_or(OsStr::new(""));
        if !node.is_folder() {
            if self.placement.excluded.leaves_out(Path::new(name)) {
                return Ok(());
            }
            let spot = self.file_spot(destination, name)?;
            let spot = self.followed(spot)?;
            return self.place(tree, &picked.path, &node, spot, Path::new(""), true);
        }
        self.copy_folder(tree, picked, &node, Path::new(destination))
    }

    /// A destination that is a link is where the link leads.
    fn followed(&self, spot: Spot) -> Result<Spot> {
        let Ok(target) = nix::fcntl::readlinkat(&*spot.folder, spot.name.as_os_str()) else {
            return Ok(spot);
        };
        let parent = spot.path.parent().unwrap_or(Path::new("/"));
        let path = parent.join(target);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(spot);
        };
        match open_in_root(self.root, folder, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) {
            Ok(folder) => Ok(Spot {
                folder: Rc::new(folder),
                name: name.to_os_string(),
                path: path.clone(),
            }),
            Err(_) => Ok(spot),
        }
    }

    fn copy_folder(&mut self, tree: &dyn Tree, picked: &Picked, node: &Node, destination: &Path) -> Result<()> {
        let is_new = match self.existing(destination)? {
            Existing::Nothing => true,
            Existing::Folder => false,
            Existing::Other => {
                return Err(BuildError::Destination {
                    path: destination.display().to_string(),
                    reason: "it is a file, and a folder is copied",
                });
            }
        };
        let folder = self.folder(destination)?;
        self.place_content(tree, &picked.path, &folder, destination, Path::new(""))?;
        if is_new {
            let meta = self.placement.meta(node, tree.attributes(&picked.path)?);
            meta.apply_to_folder(&folder, destination)?;
        }
        Ok(())
    }

    /// Copies one place of a tree together with the folders above it (`--parents`).
    pub(crate) fn copy_with_parents(&mut self, tree: &dyn Tree, picked: &Picked, destination: &str) -> Result<()> {
        let kept = picked.kept();
        let mut here = PathBuf::from(destination);
        let mut made = Vec::new();
        let above: PathBuf = picked.name.components().take(picked.kept_from).collect();
        let mut source = above;
        if let Some(parents) = kept.parent() {
            for part in parents {
                here.push(part);
                source.push(part);
                let is_new = matches!(self.existing(&here)?, Existing::Nothing);
                let folder = self.folder(&here)?;
                if is_new && let Some(found) = crate::tree::resolve(tree, &source, true)? {
                    made.push((folder, here.clone(), found));
                }
            }
        }
        let Some(node) = tree.node(&picked.path)? else {
            return Ok(());
        };
        if node.is_folder() {
            let target = kept.file_name().map_or(here.clone(), |name| here.join(name));
            self.copy_folder(tree, picked, &node, &target)?;
        } else if let Some(name) = kept.file_name() {
            let spot = self.spot(&here, name)?;
            self.place(tree, &picked.path, &node, spot, Path::new(""), true)?;
        }
        for (folder, path, found) in made.into_iter().rev() {
            if let Some(node) = tree.node(&found)? {
                self.placement
                    .meta(&node, tree.attributes(&found)?)
                    .apply_to_folder(&folder, &path)?;
            }
        }
        Ok(())
    }

    fn place_content(
        &mut self,
        tree: &dyn Tree,
        from: &Path,
        folder: &Rc<OwnedFd>,
        shown: &Path,
        inside: &Path,
    ) -> Result<()> {
        self.cancel.check()?;
        for name in tree.names(from)? {
            let (path, inside) = (from.join(&name), inside.join(&name));
            let Some(node) = tree.node(&path)? else { continue };
            let is_out = self.placement.excluded.leaves_out(&inside);
            if is_out && !(node.is_folder() && self.placement.excluded.has_exceptions()) {
                continue;
            }
            let spot = Spot {
                folder: Rc::clone(folder),
                path: shown.join(&name),
                name,
            };
            self.place(tree, &path, &node, spot, &inside, !is_out)?;
        }
        Ok(())
    }

    /// Puts one thing of the tree in its place. A folder that is left out itself is only made for what is brought back.
    fn place(
        &mut self,
        tree: &dyn Tree,
        from: &Path,
        node: &Node,
        spot: Spot,
        inside: &Path,
        is_wanted: bool,
    ) -> Result<()> {
        match &node.kind {
            NodeKind::Socket => return Ok(()),
            NodeKind::Folder => {
                if !is_wanted && !self.holds_wanted(tree, from, inside)? {
                    return Ok(());
                }
                let folder = Rc::new(spot.make_folder()?);
                self.place_content(tree, from, &folder, &spot.path, inside)?;
                let meta = self.placement.meta(node, tree.attributes(from)?);
                return meta.apply_to_folder(&folder, &spot.path);
            }
            NodeKind::File { .. } => {
                if let Some(first) = node.link.and_then(|link| self.linked.get(&link)) {
                    return spot.link_to(self.root, first);
                }
                spot.write_file(tree.open(from)?, &self.placement.meta(node, tree.attributes(from)?))?;
            }
            NodeKind::Link(target) => spot.make_link(target, &self.placement.meta(node, Vec::new()))?,
            NodeKind::Special { format, device } => {
                spot.make_special(*format, *device, &self.placement.meta(node, tree.attributes(from)?))?;
            }
        }
        if let Some(link) = node.link {
            self.linked.insert(link, spot.path);
        }
        Ok(())
    }

    fn holds_wanted(&self, tree: &dyn Tree, folder: &Path, inside: &Path) -> Result<bool> {
        for name in tree.names(folder)? {
            let (path, inside) = (folder.join(&name), inside.join(&name));
            let Some(node) = tree.node(&path)? else { continue };
            if !self.placement.excluded.leaves_out(&inside) {
                return Ok(true);
            }
            if node.is_folder() && self.holds_wanted(tree, &path, &inside)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a file that the Dockerfile itself holds.
    pub(crate) fn inline(&mut self, file: &InlineFile, destination: &str, now: (i64, i64)) -> Result<()> {
        let spot = self.followed(self.file_spot(destination, OsStr::new(&file.name))?)?;
        let node = Node {
            kind: NodeKind::File { size: 0, digest: None },
            mode: INLINE_MODE,
            uid: 0,
            gid: 0,
            mtime: now,
            link: None,
        };
        spot.write_file(file.content.as_bytes(), &self.placement.meta(&node, Vec::new()))
    }
}

#[cfg(test)]
mod tests;
