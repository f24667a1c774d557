// Package device goes into wireguard-go's when the workers are built (packaging/builds/changes.py).
package device

import (
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	few = 8 // packets together; they leave no more pages than there is always a use for
	// A lone burst is over when calm has passed twice: not when the next one comes of what happens every ten seconds.
	calm = 5300 * time.Millisecond
)

// lent are the buffers in which a receiver waits for packets. Once many have come together, and then only few for a while, their pages go
// back to the kernel: each buffer has the page of a packet that was there before, and there are 128.
//
// Nothing keeps packets from coming at that moment. They are lost then, as on any network: what has turned into zeros is not authentic, and
// answers no STUN request. (An answer that did so between a look at its number and one at the address would be a wrong address until
// tailscale asks again, half a minute later.)
type lent struct {
	mu    sync.Mutex
	bufs  [][]byte // nil while the receiver does not wait
	armed bool     // rest will be called
	busy  bool     // and many packets have come since it was called last
}

// wait is called before the receiver waits.
func (l *lent) wait(bufs [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bufs = bufs
}

// wake is called after it, with how many packets there are.
func (l *lent) wake(packets int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bufs = nil
	if packets <= few {
		return
	}
	l.busy = true
	l.arm()
}

func (l *lent) arm() {
	if !l.armed {
		l.armed = true
		time.AfterFunc(calm, l.rest)
	}
}

func (l *lent) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if l.busy {
		l.busy = false
		l.arm()
		return
	}
	for _, buf := range l.bufs {
		giveBack(buf)
	}
}

// giveBack empties the pages that are buf's alone; pages of 64 KiB, which some kernels have, never are. If the kernel keeps them, that is no
// matter.
func giveBack(buf []byte) {
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	first := -start & (page - 1)
	size := uintptr(len(buf))
	if whole := (size - min(size, first)) &^ (page - 1); whole > 0 {
		unix.Madvise(buf[first:first+whole], unix.MADV_DONTNEED)
	}
}
