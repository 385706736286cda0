//! Digests of parts of trees: what makes a `COPY` or a mount another one.
//!
//! Modes, owners, link targets and contents count; times do not, so a file that was only touched is the same file.

use std::path::Path;

use gantry_model::Digest;
use sha2::{Digest as _, Sha256};

use super::{Node, NodeKind, Picked, Tree};
use crate::contents::digest_of;
use crate::copy::Excluded;
use crate::error::{BuildError, Result};

/// Of everything that a source names, as far as it is copied.
pub(crate) fn digest_picked(tree: &dyn Tree, picked: &[Picked], excluded: &Excluded, parents: bool) -> Result<Digest> {
    let mut sum = Sum::default();
    for place in picked {
        let name = if parents {
            place.kept()
        } else {
            super::glob::base_name(&place.name).map(Into::into).unwrap_or_default()
        };
        let Some(node) = tree.node(&place.path)? else { continue };
        let is_folder = node.is_folder();
        if !is_folder
            && excluded.leaves_out(
                super::glob::base_name(&place.name)
                    .map(Path::new)
                    .unwrap_or(Path::new("")),
            )
        {
            continue;
        }
        // The name of a folder whose content is copied does not matter.
        let shown = if is_folder && !parents { Path::new("") } else { &name };
        sum.add(tree, &place.path, shown, Path::new(""), &node, excluded)?;
    }
    Ok(sum.finish())
}

/// Of a part of a tree, whatever it is; nothing is a part as well.
pub(crate) fn digest_subtree(tree: &dyn Tree, path: &Path) -> Result<Digest> {
    let mut sum = Sum::default();
    if let Some(node) = tree.node(path)? {
        sum.add(tree, path, Path::new(""), Path::new(""), &node, &Excluded::default())?;
    }
    Ok(sum.finish())
}

#[derive(Default)]
struct Sum(Sha256);

impl Sum {
    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// `shown` is what the place is called in the sum, `inside` where it is below what is copied.
    fn add(
        &mut self,
        tree: &dyn Tree,
        path: &Path,
        shown: &Path,
        inside: &Path,
        node: &Node,
        excluded: &Excluded,
    ) -> Result<()> {
        if matches!(node.kind, NodeKind::Socket) {
            return Ok(());
        }
        self.part(shown.as_os_str().as_encoded_bytes());
        self.part(format!("{:o} {} {}", node.mode, node.uid, node.gid).as_bytes());
        match &node.kind {
            NodeKind::Folder => {
                self.part(b"folder");
                for (name, value) in tree.attributes(path)? {
                    self.part(name.as_encoded_bytes());
                    self.part(&value);
                }
                for name in tree.names(path)? {
                    let (below, inside) = (path.join(&name), inside.join(&name));
                    if let Some(node) = tree.node(&below)?
                        && (!excluded.leaves_out(&inside) || (node.is_folder() && excluded.has_exceptions()))
                    {
                        self.add(tree, &below, &shown.join(&name), &inside, &node, excluded)?;
                    }
                }
                self.part(b"end");
            }
            NodeKind::File { digest, .. } => {
                let digest = match digest {
                    Some(digest) => *digest,
                    None => digest_of(tree.open(path)?).map_err(BuildError::io("read", path))?,
                };
                self.part(digest.to_string().as_bytes());
                for (name, value) in tree.attributes(path)? {
                    self.part(name.as_encoded_bytes());
                    self.part(&value);
                }
            }
            NodeKind::Link(target) => {
                self.part(b"link");
                self.part(target.as_os_str().as_encoded_bytes());
            }
            NodeKind::Special { format, device } => self.part(format!("special {format} {device}").as_bytes()),
            NodeKind::Socket => {}
        }
        Ok(())
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(self.0.finalize().into())
    }
}
