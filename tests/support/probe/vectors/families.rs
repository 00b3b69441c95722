//! Class 11: families other than IP. Opening one is enough for the judge: nothing is sent, because what is at the other
//! end may be the hypervisor or a radio.

use crate::raw::{Tried, socket};
use crate::runner::Try;
use support::catalogue::PORT;

fn opens(family: i32, kind: i32, protocol: i32) -> Tried {
    socket(family, kind, protocol).map(drop)
}

pub(super) fn vsock(_: &Try) -> Tried {
    opens(libc::AF_VSOCK, libc::SOCK_STREAM, 0)
}

pub(super) fn bluetooth(_: &Try) -> Tried {
    const L2CAP: i32 = 0;
    opens(libc::AF_BLUETOOTH, libc::SOCK_SEQPACKET, L2CAP)
}

pub(super) fn can(_: &Try) -> Tried {
    const CAN_BCM: i32 = 2;
    opens(libc::AF_CAN, libc::SOCK_DGRAM, CAN_BCM)
}

pub(super) fn rds(_: &Try) -> Tried {
    opens(libc::AF_RDS, libc::SOCK_SEQPACKET, 0)
}

pub(super) fn alg(_: &Try) -> Tried {
    opens(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
}

pub(super) fn smc(_: &Try) -> Tried {
    const AF_SMC: i32 = 43;
    opens(AF_SMC, libc::SOCK_STREAM, 0)
}

pub(super) fn tipc(_: &Try) -> Tried {
    opens(libc::AF_TIPC, libc::SOCK_RDM, 0)
}

pub(super) fn rxrpc(_: &Try) -> Tried {
    opens(libc::AF_RXRPC, libc::SOCK_DGRAM, libc::AF_INET)
}

pub(super) fn qrtr(_: &Try) -> Tried {
    const AF_QIPCRTR: i32 = 42;
    opens(AF_QIPCRTR, libc::SOCK_DGRAM, 0)
}

pub(super) fn ieee802154(_: &Try) -> Tried {
    opens(libc::AF_IEEE802154, libc::SOCK_DGRAM, 0)
}

pub(super) fn pppox(_: &Try) -> Tried {
    const PX_PROTO_OE: i32 = 0;
    opens(libc::AF_PPPOX, libc::SOCK_STREAM, PX_PROTO_OE)
}

pub(super) fn smc_inet(this: &Try) -> Tried {
    const IPPROTO_SMC: i32 = 256;
    this.each(PORT, |to| {
        let socket = socket(crate::raw::family(&to), libc::SOCK_STREAM, IPPROTO_SMC)?;
        crate::raw::connect(&socket, &to)?;
        crate::raw::send(&socket, &this.token())
    })
}
