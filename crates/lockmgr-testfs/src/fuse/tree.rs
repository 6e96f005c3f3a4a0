//! Files and directories in memory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, Request};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) attr: FileAttr,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Directory(BTreeMap<OsString, u64>),
    File(Vec<u8>),
    Link(PathBuf),
}

/// All nodes; they are never forgotten, for a test is short.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    odd: bool,
}

/// How far the clock of an odd server is behind.
const BEHIND: Duration = Duration::from_secs(3600);

/// To whom everything on an odd server belongs.
const NOBODY: u32 = 65534;

const ROOT: u64 = INodeNo::ROOT.0;

impl Tree {
    /// On an odd server, nobody's new files are his own, and the clock is an hour behind.
    pub(super) fn new(odd: bool) -> Self {
        let content = Content::Directory(BTreeMap::new());
        let attr = attributes(ROOT, &content, 0o755, (0, 0));
        Self { nodes: BTreeMap::from([(ROOT, Node { attr, content })]), next: ROOT + 1, odd }
    }

    pub(super) fn node(&mut self, inode: INodeNo) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&inode.0).ok_or(Errno::ENOENT)
    }

    pub(super) fn file(&mut self, inode: INodeNo) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.node(inode)?.content {
            Content::File(bytes) => Ok(bytes),
            Content::Directory(_) => Err(Errno::EISDIR),
            Content::Link(_) => Err(Errno::EINVAL),
        }
    }

    fn directory(&mut self, inode: INodeNo) -> Result<&mut BTreeMap<OsString, u64>, Errno> {
        match &mut self.node(inode)?.content {
            Content::Directory(entries) => Ok(entries),
            Content::File(_) | Content::Link(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn link_target(&mut self, inode: INodeNo) -> Result<&Path, Errno> {
        match &self.node(inode)?.content {
            Content::Link(target) => Ok(target),
            Content::File(_) | Content::Directory(_) => Err(Errno::EINVAL),
        }
    }

    fn entry(&mut self, parent: INodeNo, name: &OsStr) -> Result<INodeNo, Errno> {
        self.directory(parent)?.get(name).map(|inode| INodeNo(*inode)).ok_or(Errno::ENOENT)
    }

    pub(super) fn look_up(&mut self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let inode = self.entry(parent, name)?;
        self.attributes(inode)
    }

    pub(super) fn attributes(&mut self, inode: INodeNo) -> Result<FileAttr, Errno> {
        let node = self.node(inode)?;
        if let Content::File(bytes) = &node.content {
            node.attr.size = bytes.len() as u64;
        }
        Ok(node.attr)
    }

    pub(super) fn make(
        &mut self,
        parent: INodeNo,
        name: &OsStr,
        content: Content,
        mode: u32,
        request: &Request,
    ) -> Result<FileAttr, Errno> {
        let inode = self.next;
        let entries = self.directory(parent)?;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.to_owned(), inode);
        self.next += 1;
        let mut attr = attributes(inode, &content, mode, (request.uid(), request.gid()));
        if self.odd {
            (attr.uid, attr.gid) = (NOBODY, NOBODY);
            attr.mtime -= BEHIND;
        }
        self.nodes.insert(inode, Node { attr, content });
        Ok(attr)
    }

    pub(super) fn link(
        &mut self,
        inode: INodeNo,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<FileAttr, Errno> {
        let entries = self.directory(parent)?;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        entries.insert(name.to_owned(), inode.0);
        self.node(inode)?.attr.nlink += 1;
        self.attributes(inode)
    }

    /// Removes a name; the node stays for those who have it open.
    pub(super) fn remove(
        &mut self,
        parent: INodeNo,
        name: &OsStr,
        directory: bool,
    ) -> Result<(), Errno> {
        let inode = self.entry(parent, name)?;
        match &self.node(inode)?.content {
            Content::Directory(_) if !directory => return Err(Errno::EISDIR),
            Content::Directory(entries) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
            Content::File(_) | Content::Link(_) if directory => return Err(Errno::ENOTDIR),
            Content::Directory(_) | Content::File(_) | Content::Link(_) => {}
        }
        self.directory(parent)?.remove(name);
        let attr = &mut self.node(inode)?.attr;
        attr.nlink = attr.nlink.saturating_sub(if directory { 2 } else { 1 });
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        replace: bool,
    ) -> Result<(), Errno> {
        let inode = self.entry(from.0, from.1)?;
        if let Ok(old) = self.entry(to.0, to.1) {
            if !replace {
                return Err(Errno::EEXIST);
            }
            if old == inode {
                return Ok(());
            }
            let directory = matches!(self.node(inode)?.content, Content::Directory(_));
            self.remove(to.0, to.1, directory)?;
        }
        self.directory(from.0)?.remove(from.1);
        self.directory(to.0)?.insert(to.1.to_owned(), inode.0);
        Ok(())
    }

    /// The entries of a directory, with what they are.
    pub(super) fn entries(
        &mut self,
        inode: INodeNo,
    ) -> Result<Vec<(INodeNo, FileType, OsString)>, Errno> {
        let here = (inode, FileType::Directory);
        let dots = [".", ".."].map(|name| (here.0, here.1, name.into()));
        let named: Vec<_> =
            self.directory(inode)?.iter().map(|(name, inode)| (*inode, name.clone())).collect();
        let mut all = Vec::from(dots);
        for (inode, name) in named {
            let inode = INodeNo(inode);
            all.push((inode, self.node(inode)?.attr.kind, name));
        }
        Ok(all)
    }
}

fn attributes(inode: u64, content: &Content, mode: u32, (uid, gid): (u32, u32)) -> FileAttr {
    let now = SystemTime::now();
    let (kind, nlink) = match content {
        Content::Directory(_) => (FileType::Directory, 2),
        Content::File(_) => (FileType::RegularFile, 1),
        Content::Link(_) => (FileType::Symlink, 1),
    };
    let perm = u16::try_from(mode & 0o7777).unwrap_or(0o600);
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink,
        uid,
        gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
