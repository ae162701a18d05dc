//! Datagrams with the local address they were sent to (`IP_PKTINFO`, `IPV6_PKTINFO`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for one control message with an `in6_pktinfo`, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Asks the kernel for the local address of each datagram.
pub fn ask_for_local_address(socket: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    let (level, option) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option value lives across the call and its size is given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size_of::<libc::c_int>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6 only.
    V6,
}

/// Receives one datagram without waiting: length, sender, local address.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, IpAddr)> {
    // SAFETY: all-zero is valid for both structures.
    let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut control = Control([0; 64]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: name, buffer and control are writable for the sizes given and outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "datagram without its local address");
    let peer = peer_address(&name).ok_or_else(missing)?;
    // SAFETY: `message` was filled by the kernel and still points at `control`.
    let local = unsafe { local_address(&message) }.ok_or_else(missing)?;
    Ok((length, peer, local))
}

fn peer_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what is stored, and the storage is large and aligned enough for it.
            let v4 = unsafe { *(&raw const *name).cast::<libc::sockaddr_in>() };
            Some(SocketAddrV4::new(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { *(&raw const *name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

unsafe fn local_address(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the CMSG walk stays within what the kernel wrote; data may be unaligned, hence `read_unaligned`.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

/// Sends one datagram without waiting, from `local` to `peer`, which are of one family.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], peer: SocketAddr, local: IpAddr) -> io::Result<()> {
    let mut control = Control([0; 64]);
    // SAFETY: all-zero is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    match (peer, local) {
        (SocketAddr::V4(peer), IpAddr::V4(local)) => {
            // SAFETY: all-zero is valid for both.
            let (mut name, mut info): (libc::sockaddr_in, libc::in_pktinfo) =
                unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
            name.sin_family = libc::AF_INET as u16;
            name.sin_port = peer.port().to_be();
            name.sin_addr.s_addr = u32::from(*peer.ip()).to_be();
            info.ipi_spec_dst.s_addr = u32::from(local).to_be();
            // SAFETY: `name` and `info` live until the call is over.
            unsafe { send_with(socket, &mut message, &raw mut name, libc::IPPROTO_IP, libc::IP_PKTINFO, info) }
        }
        (SocketAddr::V6(peer), IpAddr::V6(local)) => {
            // SAFETY: all-zero is valid for both.
            let (mut name, mut info): (libc::sockaddr_in6, libc::in6_pktinfo) =
                unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
            name.sin6_family = libc::AF_INET6 as u16;
            name.sin6_port = peer.port().to_be();
            name.sin6_addr.s6_addr = peer.ip().octets();
            name.sin6_scope_id = peer.scope_id();
            info.ipi6_addr.s6_addr = local.octets();
            // SAFETY: as above.
            unsafe { send_with(socket, &mut message, &raw mut name, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info) }
        }
        (SocketAddr::V4(_), IpAddr::V6(_)) | (SocketAddr::V6(_), IpAddr::V4(_)) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "peer and local address are of different families"))
        }
    }
}

unsafe fn send_with<Name, Info>(
    socket: BorrowedFd<'_>,
    message: &mut libc::msghdr,
    name: *mut Name,
    level: i32,
    kind: i32,
    info: Info,
) -> io::Result<()> {
    message.msg_name = name.cast();
    message.msg_namelen = size_of::<Name>() as u32;
    let size = size_of::<Info>() as u32;
    // SAFETY: the control buffer (64 octets, aligned) holds one header and one `Info`; `message` points at live data.
    let sent = unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size) as _;
        libc::CMSG_DATA(header).cast::<Info>().write_unaligned(info);
        message.msg_controllen = libc::CMSG_SPACE(size) as _;
        libc::sendmsg(socket.as_raw_fd(), message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
