//! Lines for engineers: what a program decides, as it decides it. Only in builds with the feature `log`.
//!
//! Without the feature each of these is nothing: neither an instruction nor a map of it is in what ships. With it the lines
//! go over aya-log's own ring, which the keeper reads (`keeper/kernel/lines.rs` of the daemon) while `RUST_LOG` asks for
//! them; otherwise a constant closes each line, and the verifier does not look at it.
//!
//! A line needs about a hundred bytes of stack. A chain of calls has 512, of which `connect` and `sendmsg` take most: with
//! lines, what they do one after the other has a frame of its own each.

/// One line, with aya-log's formats: `{}` for numbers, `{:i}` for the 16 bytes of an address. No argument is a text that
/// depends on anything: the verifier then follows each of its lengths.
macro_rules! debug {
    ($($argument:tt)+) => {
        #[cfg(feature = "log")]
        ::aya_log_ebpf::debug!((), $($argument)+);
    };
}

/// A step, written as a closure of variables that are there.
#[cfg(feature = "log")]
macro_rules! apart {
    (|$($variable:ident: $type:ty),+| -> $gives:ty $step:block) => {{
        #[inline(never)]
        fn apart($($variable: $type),+) -> $gives $step
        apart($($variable),+)
    }};
}
#[cfg(not(feature = "log"))]
macro_rules! apart {
    (|$($variable:ident: $type:ty),+| -> $gives:ty $step:block) => {
        $step
    };
}

/// `decide(ctx, family, addr)`, which comes back in numbers: the kernel's type information knows no `Result`.
#[cfg(feature = "log")]
macro_rules! decided {
    ($decide:ident($ctx:ident, $family:ident, $addr:ident)) => {{
        let mut agent = 0;
        let whose = &mut agent;
        let why =
            $crate::log::apart!(|$ctx: &SockAddrContext, $family: u16, $addr: [u8; 16], whose: &mut u64| -> u32 {
                match $decide($ctx, $family, $addr) {
                    Ok(()) => 0,
                    Err((agent, why)) => {
                        *whose = agent;
                        why as u32
                    }
                }
            });
        // SAFETY: it was a `Why` before it was a number.
        if why == 0 { Ok(()) } else { Err((agent, unsafe { core::mem::transmute::<u32, Why>(why) })) }
    }};
}
#[cfg(not(feature = "log"))]
macro_rules! decided {
    ($decide:ident($ctx:ident, $family:ident, $addr:ident)) => {
        $decide($ctx, $family, $addr)
    };
}

/// The process that runs.
#[cfg(feature = "log")]
#[inline(always)]
pub fn pid() -> u32 {
    (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32
}

pub(crate) use {apart, debug, decided};
