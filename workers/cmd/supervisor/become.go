package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFile is the size of the largest file that a worker may write: what it writes are keys and preferences, and a hostile one must not
// fill the disk with one.
const maxFile = 16 << 20

// home is a network namespace; the zero one is where we are.
type home struct {
	path  string
	inode uint64
}

// words are the command line's.
func (h home) words() []string { return []string{h.path, strconv.FormatUint(h.inode, 10)} }

// enter moves this thread there. Another namespace may be at the path by now: it is somebody else's.
func (h home) enter() error {
	if h.path == "" {
		return nil
	}
	fd, err := unix.Open(h.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", h.path, err)
	}
	defer unix.Close(fd)
	var there unix.Stat_t
	if err := unix.Fstat(fd, &there); err != nil {
		return err
	}
	if there.Ino != h.inode {
		return fmt.Errorf("%s is another namespace", h.path)
	}
	return os.NewSyscallError("setns", unix.Setns(fd, unix.CLONE_NEWNET))
}

// become turns this process into `UID NETNS INODE PROGRAM ARGUMENT …`, in that namespace or (an empty path) here, with nothing that could
// ever be more than that user ID: no capability in any set, no way to gain one, no group, no core file, no large one, no environment. It
// only returns with an error.
func become(args []string) error {
	if len(args) < 4 {
		return errors.New("the user ID, the namespace or the program is missing")
	}
	uid, err := strconv.Atoi(args[0])
	if err != nil || uid <= 0 {
		return fmt.Errorf("%q is not the user ID of a worker", args[0])
	}
	inode, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("%q is no inode", args[2])
	}
	runtime.LockOSThread() // exec carries this thread's credentials and namespace
	for _, step := range []func() error{
		home{args[1], inode}.enter,
		dropBoundingSet,
		func() error { return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) },
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setresgid(uid, uid, uid) },
		func() error { return syscall.Setresuid(uid, uid, uid) },
		dropCapabilities,
		func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
		func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) },
		func() error { return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: maxFile, Max: maxFile}) },
		cannotComeBack,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return syscall.Exec(args[3], args[3:], []string{})
}

func dropBoundingSet() error {
	for capability := uintptr(0); ; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err == unix.EINVAL { // beyond the last one that the kernel has
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// dropCapabilities empties what a change of user ID leaves: the inheritable set, and all of them for a root that keeps its own.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

func cannotComeBack() error {
	if syscall.Setuid(0) == nil {
		return errors.New("root can still be had")
	}
	return nil
}
