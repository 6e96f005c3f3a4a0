//! What of a set is asked of the kernel: locks that would meet there are taken as one.
//!
//! Two locks meet when they are of one file, by whatever path, in one of the kernel's two spaces
//! (`flock`, and record locks), and their ranges overlap. They are taken through the first handle
//! whose range covers both and whose hold has all that both are to have (a record, a token, a gate and
//! so on), or, where there is none, through one that is made for it, in the stronger of their modes. A
//! file that does not exist yet is told by its name in its directory.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::file_lock::FileLock;
use crate::mode::{Mechanism, Mode, Range};
use crate::options::Settings;
use crate::sys::file::{self, Identity};

/// The locks to take, none of which meets another one.
pub(super) struct Plan {
    entries: Vec<Entry>,
    /// For each given lock, its entry.
    places: Vec<usize>,
    given: Vec<FileLock>,
}

struct Entry {
    lock: FileLock,
    key: Key,
    range: Range,
    mode: Mode,
    /// Those it stands for.
    given: Vec<usize>,
}

/// What file it is.
#[derive(Clone, PartialEq)]
enum Key {
    Inode(Identity),
    /// A missing file: a name in a directory.
    Name(Identity, Vec<u8>),
    /// Its directory is missing too.
    Path(Vec<u8>),
}

impl Key {
    fn of(lock: &FileLock) -> Option<Self> {
        let handle = lock.handle();
        if let Some(identity) = handle.identity() {
            return Some(Key::Inode(identity));
        }
        let path = handle.place.as_ref()?.path();
        Some(
            Self::of_missing(path).unwrap_or_else(|| Key::Path(path.as_os_str().as_bytes().into())),
        )
    }

    fn of_missing(path: &Path) -> Option<Self> {
        let parent = CString::new(path.parent()?.as_os_str().as_bytes()).ok()?;
        let directory = file::status_at_path(&parent, true).ok()?.identity;
        Some(Key::Name(directory, path.file_name()?.as_bytes().into()))
    }
}

impl Entry {
    fn settings(&self) -> &Settings {
        &self.lock.handle().settings
    }

    fn meets(&self, other: &Self) -> bool {
        let record = |entry: &Self| entry.settings().mechanism != Mechanism::Flock;
        self.key == other.key && record(self) == record(other) && self.range.overlaps(other.range)
    }

    /// Takes in another one that it meets.
    fn merge(&mut self, other: Self) -> Result<()> {
        let range = self.range.union(other.range);
        let wanted = self.settings().united_with(other.settings());
        let serves = |entry: &Self| entry.range == range && entry.settings().give_all_of(&wanted);
        if serves(self) {
            // As it is.
        } else if serves(&other) {
            self.lock = other.lock;
        } else {
            self.lock = self.made_for_both(&other, Settings { range, ..wanted })?;
        }
        self.range = range;
        if other.mode == Mode::Exclusive {
            self.mode = Mode::Exclusive;
        }
        self.given.extend(other.given);
        Ok(())
    }

    fn made_for_both(&self, other: &Self, wanted: Settings) -> Result<FileLock> {
        if wanted.fenced && wanted.remove_on_release {
            return Err(self.unsupported(
                "one lock of the set is to have fencing tokens, and another on the same file is to \
                 remove it on release, which would forget the last one; leave the lock file there",
            ));
        }
        let named = [other, self].into_iter().filter_map(|entry| Some((entry, entry.lock.path()?)));
        // What is removed is the name that was given with this option.
        let base = named.max_by_key(|(entry, _)| entry.settings().remove_on_release);
        let Some((base, path)) = base else {
            return Err(self.unsupported(
                "ranges of the set overlap on a file that the program opened itself, or its handles \
                 have different options; give one handle that has them all and covers both ranges",
            ));
        };
        let Settings { creation_mode, create, create_parents, follow_symlinks, .. } =
            *base.settings();
        let opened = Settings { creation_mode, create, create_parents, follow_symlinks, ..wanted };
        FileLock::lazily_at(path, opened)
    }

    fn unsupported(&self, reason: &str) -> Error {
        Error::unsupported(self.lock.handle().path(), "lock together", reason)
    }
}

impl Plan {
    pub(super) fn of(members: &[(FileLock, Mode)]) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::with_capacity(members.len());
        for (index, (lock, mode)) in members.iter().enumerate() {
            let mut new = Entry {
                lock: lock.clone(),
                // A handle whose file went away says so when it is asked for the lock.
                key: Key::of(lock).unwrap_or(Key::Path(Vec::new())),
                range: lock.handle().settings.range,
                mode: *mode,
                given: vec![index],
            };
            // What has grown may meet others that neither part met.
            while let Some(met) = entries.iter().position(|entry| {
                entry.meets(&new) && entry.settings().mechanism == new.settings().mechanism
            }) {
                let mut merged = entries.remove(met);
                merged.merge(new)?;
                new = merged;
            }
            entries.push(new);
        }
        for (index, one) in entries.iter().enumerate() {
            if entries[index + 1..]
                .iter()
                .any(|other| one.meets(other) && one.mode.conflicts_with(other.mode))
            {
                return Err(one.unsupported(
                    "an ofd and a posix lock of the set exclude each other on this file; use one \
                     mechanism for both",
                ));
            }
        }
        let mut places = vec![0; members.len()];
        for (place, entry) in entries.iter().enumerate() {
            for given in &entry.given {
                places[*given] = place;
            }
        }
        let given = members.iter().map(|(lock, _)| lock.clone()).collect();
        Ok(Self { entries, places, given })
    }

    /// What is taken for the lock that was given as this one.
    pub(super) fn member(&self, given: usize) -> Option<(&FileLock, Mode)> {
        let entry = &self.entries[*self.places.get(given)?];
        Some((&entry.lock, entry.mode))
    }

    /// The place among the entries of the lock that was given as this one.
    pub(super) fn place(&self, given: usize) -> usize {
        self.places[given]
    }

    /// What is taken, and the first given lock that each stands for.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&FileLock, Mode, usize)> {
        self.entries.iter().map(|entry| (&entry.lock, entry.mode, entry.given[0]))
    }

    /// A given lock that was taken as part of another one, and whose path does not name the held
    /// file any more.
    pub(super) fn outdated(&self, held: impl Fn(usize) -> Identity) -> Option<usize> {
        let merged = self.entries.iter().enumerate().filter(|(_, entry)| entry.given.len() > 1);
        merged
            .flat_map(|(place, entry)| entry.given.iter().map(move |given| (place, *given)))
            .find(|(place, given)| self.given[*given].handle().identity() != Some(held(*place)))
            .map(|(_, given)| given)
    }

    pub(super) fn uses(&self, mechanism: Mechanism) -> Option<&FileLock> {
        let mut locks = self.entries.iter().map(|entry| &entry.lock);
        locks.find(|lock| lock.mechanism() == mechanism)
    }

    pub(super) fn into_given(self) -> Given {
        let mut merged = Vec::new();
        for (place, entry) in self.entries.iter().enumerate() {
            let others = entry.given.iter().map(|given| &self.given[*given]);
            let apart = others.filter(|other| other.path() != entry.lock.path());
            merged.extend(apart.map(|other| (place, other.clone())));
        }
        Given { places: self.places, merged }
    }
}

/// Where the given locks are among what was taken.
pub(super) struct Given {
    places: Vec<usize>,
    /// Those of other paths than the one by which their file was locked.
    merged: Vec<(usize, FileLock)>,
}

impl Given {
    pub(super) fn place(&self, given: usize) -> Option<usize> {
        self.places.get(given).copied()
    }

    /// The first given lock whose path does not name the held file any more, among those whose guard has
    /// another path, or none.
    pub(super) fn strayed(
        &self,
        operation: &'static str,
        held: impl Fn(usize) -> Identity,
    ) -> Result<Option<&FileLock>> {
        for (place, lock) in &self.merged {
            let handle = lock.handle();
            let Some(path) = &handle.place else { continue };
            let is_it = path.names(held(*place), handle.settings.follow_symlinks);
            if !is_it.map_err(|errno| Error::io(handle.path(), operation, errno))? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }
}
