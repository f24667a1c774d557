package main

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// netmonGroups are what tailscale's netmon listens to (net/netmon/netmon_linux.go), and nobody else in this process.
const netmonGroups = unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE |
	unix.RTMGRP_IPV4_RULE

// ignoreLinkLocal has the kernel keep from tailscale what it says of link-local addresses, and of the routes that follow from addresses. It
// would be woken for nothing: a dozen times by each pod of the host that starts or stops, whose veth has no other address there.
func ignoreLinkLocal() error {
	fds, err := netmonSockets()
	if err != nil {
		return err
	}
	if len(fds) == 0 {
		return errors.New("tailscale has no netlink socket that we know it by")
	}
	program, err := bpf.Assemble(withoutLinkLocal())
	if err != nil {
		return err
	}
	filters := make([]unix.SockFilter, 0, len(program))
	for _, i := range program {
		filters = append(filters, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	for _, fd := range fds {
		fprog := &unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}
		err = errors.Join(err, unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog))
	}
	return err
}

// netmonSockets returns the descriptors of netmon's sockets, which it shows to nobody.
func netmonSockets() (fds []int, err error) {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, entry := range dir {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		address, err := unix.Getsockname(fd)
		if nl, ok := address.(*unix.SockaddrNetlink); err == nil && ok && nl.Groups == netmonGroups {
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// withoutLinkLocal looks at one message of rtnetlink(7), and drops it or not. What it does not know it lets pass.
func withoutLinkLocal() []bpf.Instruction {
	const (
		typ       = unix.SizeofNlMsghdr - 12                                       // in struct nlmsghdr
		family    = unix.SizeofNlMsghdr                                            // the first byte of struct rtmsg
		scope     = unix.SizeofNlMsghdr + 3                                        // in struct ifaddrmsg
		routeType = unix.SizeofNlMsghdr + 7                                        // in struct rtmsg
		attribute = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4 // the second one: the first is the table's number
		keep      = 1 << 31
	)
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: typ, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: native(unix.RTM_NEWADDR), SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: native(unix.RTM_DELADDR), SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: native(unix.RTM_NEWROUTE), SkipTrue: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: native(unix.RTM_DELROUTE), SkipTrue: 3},
		bpf.RetConstant{Val: keep},
		// An address.
		bpf.LoadAbsolute{Off: scope, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RT_SCOPE_LINK, SkipTrue: 10, SkipFalse: 9},
		// A route. Those to addresses of the host, and to broadcast and multicast ones, come with the addresses.
		bpf.LoadAbsolute{Off: routeType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.RTN_UNICAST, SkipFalse: 8},
		bpf.LoadAbsolute{Off: family, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipFalse: 5},
		bpf.LoadAbsolute{Off: attribute, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: native(unix.SizeofRtAttr+16)<<16 | native(unix.RTA_DST), SkipFalse: 3},
		bpf.LoadAbsolute{Off: attribute + unix.SizeofRtAttr, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0xfe80, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0xff00, SkipTrue: 1},
		bpf.RetConstant{Val: keep},
		bpf.RetConstant{Val: 0},
	}
}

// native is how a number that the kernel wrote in the machine's order reads to a filter, which reads everything as the network's.
func native(n uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n)))
}
