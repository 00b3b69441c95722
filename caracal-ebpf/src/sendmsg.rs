//! `cgroup/sendmsg4` and `cgroup/sendmsg6`: an unconnected datagram goes to the resolver if it is DNS, and nowhere else.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use caracal_common::denial::{Hook, Why};
use caracal_common::flow::{AF_INET, AF_INET6, DNS_PORT};

use crate::connect::{asked_port, asked4, asked6, redirect};
use crate::decide::{caller, is_loopback, is_v4, lease, remember, settings};
#[cfg(feature = "log")]
use crate::log::pid;
use crate::log::{apart, debug, decided};
use crate::refuse::{by_current, count, denial, refused, report};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let addr = asked4(&ctx);
    answer(&ctx, AF_INET, addr)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let addr = asked6(&ctx);
    answer(&ctx, AF_INET6, addr)
}

#[inline(always)]
fn answer(ctx: &SockAddrContext, family: u16, addr: [u8; 16]) -> i32 {
    #[cfg(feature = "log")]
    let asked = asked_port(ctx);
    match decided!(decide(ctx, family, addr)) {
        Ok(()) => {
            debug!("sendmsg: {:i} port {} goes to port {}, pid {}", addr, asked, asked_port(ctx), pid());
            1
        }
        Err((agent, why)) => apart!(|ctx: &SockAddrContext, agent: u64, why: Why, addr: [u8; 16]| -> i32 {
            let mut denial = by_current(denial(agent, why, Hook::Sendmsg));
            denial.addr = addr;
            denial.port = asked_port(ctx);
            denial.protocol = 17;
            report(&denial, Hook::Sendmsg);
            refused(ctx)
        }),
    }
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, family: u16, addr: [u8; 16]) -> Result<(), (u64, Why)> {
    let sa = ctx.sock_addr;
    // SAFETY: the context is the hook's own.
    let sk = unsafe { (*sa).__bindgen_anon_1.sk };
    let port = asked_port(ctx);
    let mut flow = caller(ctx, sk)?;
    let agent = flow.agent;
    if port != DNS_PORT {
        // Between two sockets of the same agent: the packet itself is judged at egress, where its receiver is known.
        if is_loopback(&addr) {
            return Ok(());
        }
        return Err((agent, Why::Datagram));
    }
    let settings = settings().map_err(|why| (agent, why))?;
    lease().map_err(|why| (agent, why))?;
    flow.addr = addr;
    flow.port = port;
    flow.family = family;
    remember(sk.cast(), &mut flow).map_err(|why| (agent, why))?;
    redirect(sa, family, is_v4(&addr), settings.dns_port);
    count(agent, 0, Hook::Sendmsg);
    Ok(())
}
