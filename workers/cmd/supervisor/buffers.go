package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	socketBuffer   = 7 << 20 // bytes, what tailscaled gives its own sockets; the kernel doubles it for its bookkeeping
	maxSockets     = 8       // tailscale has two, and as many more while it binds anew
	maxDescriptors = 4096    // that we look at
)

// widenSockets gives a process's UDP sockets the buffers that a node at full speed needs. The host's limit (net.core.rmem_max) is far
// below on most machines, and only CAP_NET_ADMIN goes beyond it, which a worker must not have: so we do it, on copies of its descriptors.
//
// The process may be hostile: what it gets is room in a few UDP sockets of its own, which its control group accounts for. One that has
// ended is no error.
func widenSockets(process *os.Process) error {
	var failed error
	err := process.WithHandle(func(pidfd uintptr) { failed = widenThrough(int(pidfd), process.Pid) })
	if err = errors.Join(err, failed); errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// widenThrough takes the process by its descriptor: what the number is good for is a list of numbers, whose process ever they are.
func widenThrough(pidfd, pid int) error {
	sockets, err := socketsOf(pid)
	if err != nil {
		return err
	}
	var failed error
	for udp := 0; len(sockets) > 0 && udp < maxSockets; sockets = sockets[1:] {
		isUDP, err := widenSocket(pidfd, sockets[0])
		if isUDP {
			udp++
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// socketsOf lists a process's descriptors that are sockets, in their order. Each may be something else a moment later.
func socketsOf(pid int) ([]int, error) {
	table, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, os.ErrProcessDone
	}
	if err != nil {
		return nil, err
	}
	defer table.Close()
	names, _ := table.Readdirnames(maxDescriptors) // io.EOF is the rule
	var sockets []int
	for _, name := range names {
		target, _ := os.Readlink(table.Name() + "/" + name)
		if fd, err := strconv.Atoi(name); err == nil && strings.HasPrefix(target, "socket:") {
			sockets = append(sockets, fd)
		}
	}
	return sockets, nil
}

// widenSocket widens one, if it is an internet UDP socket, and reports whether it is. A descriptor that is gone by now is no error.
func widenSocket(pidfd, theirs int) (isUDP bool, err error) {
	fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
	if err == unix.EBADF {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pidfd_getfd: %w", err)
	}
	defer unix.Close(fd)
	if !hasOption(fd, unix.SO_TYPE, unix.SOCK_DGRAM) || !hasOption(fd, unix.SO_DOMAIN, unix.AF_INET, unix.AF_INET6) {
		return false, nil
	}
	return true, errors.Join(
		os.NewSyscallError("SO_RCVBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)),
		os.NewSyscallError("SO_SNDBUFFORCE", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)),
	)
}

// hasOption reports whether a descriptor is a socket whose option has one of these values.
func hasOption(fd, option int, wanted ...int) bool {
	value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	return err == nil && slices.Contains(wanted, value)
}
