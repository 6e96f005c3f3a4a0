//! Comparing what two processes have open.

use std::cmp::Ordering;

/// Compares the open file descriptions of two descriptors, each of a process: equal when they have the
/// same one, else in an order of the kernel's own. `None` when it does not tell: tracing one of the
/// processes is not permitted, or the call is not there.
///
/// # References
/// `kcmp(2)`
pub(crate) fn compare_descriptions(one: (u32, u32), other: (u32, u32)) -> Option<Ordering> {
    const KCMP_FILE: libc::c_int = 0;
    let pid = |number: u32| libc::pid_t::try_from(number).ok();
    let (first, second) = (pid(one.0)?, pid(other.0)?);
    let (first_fd, second_fd) = (libc::c_ulong::from(one.1), libc::c_ulong::from(other.1));
    // SAFETY: the call takes five numbers and touches no memory of ours.
    let result =
        unsafe { libc::syscall(libc::SYS_kcmp, first, second, KCMP_FILE, first_fd, second_fd) };
    match result {
        0 => Some(Ordering::Equal),
        1 => Some(Ordering::Less),
        2 => Some(Ordering::Greater),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn copies_are_one_description_and_second_opens_are_not() {
        let first = File::open("/").unwrap();
        let copy = first.try_clone().unwrap();
        let second = File::open("/").unwrap();
        let at = |file: &File| (std::process::id(), u32::try_from(file.as_raw_fd()).unwrap());
        if let Some(same) = compare_descriptions(at(&first), at(&copy)) {
            assert_eq!(same, Ordering::Equal);
            let one = compare_descriptions(at(&first), at(&second)).unwrap();
            assert_ne!(one, Ordering::Equal);
            assert_eq!(compare_descriptions(at(&second), at(&copy)), Some(one.reverse()));
        }
        assert_eq!(compare_descriptions((u32::MAX, 0), at(&first)), None);
    }
}
