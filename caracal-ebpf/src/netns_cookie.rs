//! `cgroup/sock_create`, in a cgroup of the keeper's own and for a moment: tells the cookie of the network namespace that
//! a socket is made in. Kernels before 5.14 have no `SO_NETNS_COOKIE`; the helper is there from 5.7.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;

use crate::maps::COOKIE;

#[cgroup_sock(sock_create)]
pub fn netns_cookie(ctx: SockContext) -> i32 {
    // SAFETY: the context is the hook's own.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let _ = COOKIE.set(0, cookie, 0);
    // Told; the socket itself is not wanted.
    0
}
