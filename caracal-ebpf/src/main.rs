//! Caracal's kernel programs. One file per hook; [`decide`] is the shared decision; [`maps`] is all that they share
//! with the daemon. Every program's error arm denies.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bind;
mod connect;
mod context;
mod decide;
mod device;
mod egress;
mod foreign;
mod getpeername;
mod ingress;
mod log;
mod lsm;
mod maps;
mod memory;
mod netns_cookie;
mod packet;
mod recvmsg;
mod refuse;
mod sendmsg;
mod setsockopt;
mod sock_create;
mod sock_ops;

/// The programs call GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
