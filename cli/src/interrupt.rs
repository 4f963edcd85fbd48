//! Ctrl-C (and SIGTERM) as a wish to end, for a command that goes on until then.
//!
//! Owns the handler of both signals and the flag it sets; nothing else here is `unsafe`.
//! Never ends the process itself.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_WANTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    IS_WANTED.store(true, Ordering::Relaxed);
}

/// From now on these signals only set what [`is_wanted`] tells.
pub(crate) fn listen() {
    let handler = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler is of the type the system calls, and stores one atomic, which is safe at
        // any instruction.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Somebody wants the command to end.
pub(crate) fn is_wanted() -> bool {
    IS_WANTED.load(Ordering::Relaxed)
}
