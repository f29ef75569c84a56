//! An address of the node's own on its loopback interface, at which pods reach the node: packets from a pod's network are
//! routed to the host, and an address of the interface is the host's whichever way they come in.
//!
//! Source: rtnetlink(7), `RTM_NEWADDR` and `RTM_DELADDR`.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{IFA_ADDRESS, IFA_LOCAL, RT_SCOPE_HOST, RTM_DELADDR, RTM_NEWADDR};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

/// The loopback interface is the first of every network namespace.
const INTERFACE: u32 = 1;
/// Header of a message, and of its address.
const LENGTH: u32 = 16 + 8 + 2 * ATTRIBUTE as u32;
/// `NLM_F_REQUEST` and `NLM_F_ACK`; `NLM_F_CREATE` and `NLM_F_EXCL`: in a message's header they have two bytes.
const QUESTION: u16 = 0x5;
const IF_NEW: u16 = 0x600;
/// `AF_INET`, in one byte.
const IPV4: u8 = 2;
/// The address alone, with no network around it.
const PREFIX_BITS: u8 = 32;
/// An attribute that holds an IPv4 address, with its header.
const ATTRIBUTE: u16 = 8;

/// Adds the address, and no route to any other. One that is there stays.
///
/// # Errors
/// What the kernel says; `EPERM` without `CAP_NET_ADMIN`.
pub fn add(address: Ipv4Addr) -> io::Result<()> {
    match ask(&message(RTM_NEWADDR, IF_NEW, address)) {
        Err(Errno::EEXIST) => Ok(()),
        answer => Ok(answer?),
    }
}

/// Removes the address. One that is not there is success.
///
/// # Errors
/// What the kernel says.
pub fn remove(address: Ipv4Addr) -> io::Result<()> {
    match ask(&message(RTM_DELADDR, 0, address)) {
        Err(Errno::EADDRNOTAVAIL) => Ok(()),
        answer => Ok(answer?),
    }
}

fn message(kind: u16, flags: u16, address: Ipv4Addr) -> Vec<u8> {
    let mut message = LENGTH.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((QUESTION | flags).to_ne_bytes());
    // Sequence and sender: there is one question, and the kernel knows who asks.
    message.extend([0; 8]);
    message.extend([IPV4, PREFIX_BITS, 0, RT_SCOPE_HOST]);
    message.extend(INTERFACE.to_ne_bytes());
    for attribute in [IFA_LOCAL, IFA_ADDRESS] {
        message.extend(ATTRIBUTE.to_ne_bytes());
        message.extend(attribute.to_ne_bytes());
        message.extend(address.octets());
    }
    message
}

/// Asks the kernel for a change; its answer is an error number, 0 for none, behind the answer's header.
fn ask(message: &[u8]) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer[..length].get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw(-error)),
        None => Err(Errno::EBADMSG),
    }
}
