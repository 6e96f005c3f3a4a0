//! Numbers of errors by their names, as every manual page has them.

/// `EAGAIN`, or `errno 4711` for a number that has no name here.
pub(crate) fn name(number: i32) -> String {
    macro_rules! names {
        ($($name:ident)*) => {
            match number {
                $(libc::$name => stringify!($name).to_owned(),)*
                other => format!("errno {other}"),
            }
        };
    }
    // EWOULDBLOCK is the same number as EAGAIN on Linux, ENOTSUP as EOPNOTSUPP.
    names! {
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
        ELOOP ENODATA ETIME ENONET ENOLINK EPROTO EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK
        EOPNOTSUPP EADDRINUSE ENETDOWN ENETUNREACH ECONNABORTED ECONNRESET ENOBUFS ENOTCONN
        ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE
        EDQUOT ECANCELED ENOKEY EOWNERDEAD ENOTRECOVERABLE EREMOTEIO EREMOTE ERESTART EUCLEAN
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn errors_have_names() {
        assert_eq!(name(libc::EWOULDBLOCK), "EAGAIN");
        assert_eq!(name(libc::ENOLCK), "ENOLCK");
        assert_eq!(name(9999), "errno 9999");
    }
}
