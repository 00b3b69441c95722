//! `cgroup/dev`: no device by which bytes leave without a socket. A tunnel device's packets are forwarded as another
//! machine's would be, and no socket hook sees them; raw memory, ports and disks reach everything, the daemon's keys too.
//!
//! A device is refused when it is opened, whoever made its node: only numbers count. Making a node is left alone.

use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::cgroup_device;
use aya_ebpf::programs::DeviceContext;
use caracal_common::denial::{Hook, Why};

use crate::context::word;
use crate::decide::current_agent;
use crate::maps::AGENTS;
use crate::refuse::{by_current, denial, has_current_task, report};

/// The low half of `access_type` (`BPF_DEVCG_DEV_BLOCK`, `BPF_DEVCG_DEV_CHAR`).
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
/// Its high half: `BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE`.
const OPENS: u32 = 2 | 4;

#[cgroup_device]
pub fn device(ctx: DeviceContext) -> i32 {
    // SAFETY: the context is the hook's own: `struct bpf_cgroup_dev_ctx` is three words.
    let (access, major, minor) =
        unsafe { (word::<0, _>(ctx.device), word::<4, _>(ctx.device), word::<8, _>(ctx.device)) };
    if (access >> 16) & OPENS == 0 || !leads_out(access & 0xffff, major, minor) {
        return 1;
    }
    let mut denial = denial(0, Why::Device, Hook::Device);
    if has_current_task() {
        denial.agent = current_agent().unwrap_or(0);
        denial = by_current(denial);
    } else {
        // Before 6.1 a task in a cgroup below its agent's has no name here.
        // SAFETY: takes nothing and cannot fail.
        let cgroup = unsafe { bpf_get_current_cgroup_id() };
        if AGENTS.get_ptr(cgroup).is_some() {
            denial.agent = cgroup;
        }
    }
    report(&denial, Hook::Device);
    0
}

/// By the kernel's fixed numbers (Documentation/admin-guide/devices.txt, `linux/miscdevice.h`).
#[inline(always)]
fn leads_out(kind: u32, major: u32, minor: u32) -> bool {
    match (kind, major) {
        // mem, kmem, port
        (CHARACTER, 1) => matches!(minor, 1 | 2 | 4),
        // vfio: a card in a process's hands; tun; vhost-net; vhost-vsock
        (CHARACTER, 10) => matches!(minor, 196 | 200 | 238 | 241),
        // SCSI generic, which is a disk by its commands; ppp; InfiniBand's verbs and management datagrams
        (CHARACTER, 21 | 108 | 231) => true,
        // Memory and files as disks are the process's own; any other disk is the host's.
        (BLOCK, 1 | 7) => false,
        (BLOCK, _) => true,
        _ => false,
    }
}
