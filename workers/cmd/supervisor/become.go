package main

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFile is the size of the largest file that a worker may write: what it writes are keys and preferences, and a hostile one must not
// fill the disk with one.
const maxFile = 16 << 20

// become turns this process into `UID PROGRAM ARGUMENT …` with nothing that could ever be more than that user ID: no capability in any
// set, no way to gain one, no group, no core file, no large one, no environment. It only returns with an error.
func become(args []string) error {
	if len(args) < 2 {
		return errors.New("the user ID or the program is missing")
	}
	uid, err := strconv.Atoi(args[0])
	if err != nil || uid <= 0 {
		return fmt.Errorf("%q is not the user ID of a worker", args[0])
	}
	runtime.LockOSThread() // exec carries this thread's credentials
	for _, step := range []func() error{
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
	return syscall.Exec(args[1], args[1:], []string{})
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
