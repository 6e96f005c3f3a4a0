//! The environment of the command: lockmgr's own, but for a few names.
//!
//! It is handed over by the call that starts the command, and lockmgr's own is not changed: at that
//! time another thread may still be there. What has no `=` in it, or is no UTF-8, is passed on as it is.

use std::ffi::{CStr, CString, OsString, c_char};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

unsafe extern "C" {
    /// As in `environ(7)`.
    static environ: *const *const c_char;
}

/// Ready for `execvpe`.
pub(crate) struct Environment {
    /// What the last pointers lead to; its heap blocks stay where they are.
    _own: Vec<CString>,
    /// Ends in a null pointer.
    pointers: Vec<*const c_char>,
}

impl Environment {
    /// The environment of this process, in which these names have the given values, or are not there.
    ///
    /// Nobody may change the environment of this process as long as this is used; nothing in lockmgr
    /// ever does.
    pub(crate) fn with(ours: Vec<(&str, Option<OsString>)>) -> Self {
        let mut pointers = Vec::new();
        // SAFETY: the C library keeps the variable, and nothing changes it (see above).
        let mut next = unsafe { environ };
        // SAFETY: where it is not null, it leads to an array that ends in a null pointer.
        while let Some(entry) = (!next.is_null()).then(|| unsafe { *next }).filter(|e| !e.is_null())
        {
            // SAFETY: entries are NUL-terminated strings.
            let text = unsafe { CStr::from_ptr(entry) }.to_bytes();
            let is_ours = |(name, _): &(&str, _)| {
                text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
            };
            if !ours.iter().any(is_ours) {
                pointers.push(entry);
            }
            // SAFETY: the entry was not the null pointer at the array's end.
            next = unsafe { next.add(1) };
        }
        let own: Vec<CString> = ours
            .into_iter()
            .filter_map(|(name, value)| {
                let text = [name.as_bytes(), b"=", &value?.into_vec()].concat();
                Some(CString::new(text).expect("paths and numbers have no NUL inside"))
            })
            .collect();
        pointers.extend(own.iter().map(|text| text.as_ptr()));
        pointers.push(ptr::null());
        Self { _own: own, pointers }
    }

    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}
