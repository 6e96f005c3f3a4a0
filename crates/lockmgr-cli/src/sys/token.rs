//! The fencing token in the command's environment.

/// The variable's name.
const NAME: &str = "LOCKMGR_TOKEN";

/// Sets or removes the variable in our own environment, which the command inherits.
pub(crate) fn tell_the_command(token: Option<u64>) {
    match token {
        // SAFETY: other threads of ours (the one that looks whom we wait for) read the environment by
        // way of `std` alone, if at all, which has a lock for that.
        Some(token) => unsafe { std::env::set_var(NAME, token.to_string()) },
        None if std::env::var_os(NAME).is_none() => {}
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(NAME) },
    }
}
