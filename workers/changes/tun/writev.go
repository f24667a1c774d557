// Package tun goes into wireguard-go's when the workers are built (packaging/builds/changes.py).
package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// writev is unix.Writev, but that one makes a slice of vectors for each call, and grows it three times: for a stream of TCP it was 12 MB of
// garbage a second in small pieces, which were most of what the collector had to do and of the books that the runtime kept afterwards.
func writev(fd uintptr, bufs [][]byte) (int, error) {
	vectors := make([]unix.Iovec, 0, 130) // on the stack: a batch of packets, and a header
	for _, buf := range bufs {
		if len(buf) > 0 {
			vectors = append(vectors, unix.Iovec{Base: &buf[0]})
			vectors[len(vectors)-1].SetLen(len(buf))
		}
	}
	n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(unsafe.SliceData(vectors))), uintptr(len(vectors)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
