package main

import (
	"cmp"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/tailscale/wireguard-go/tun"
	"golang.org/x/sys/unix"
)

// few packets are written one by one: to join them would win nothing that is worth the joiner.
const few = 4

// writer gives packets to a TUN: as wireguard-go does, which joins those of one connection; or few as they are. The joiner has two
// megabytes of tables and vectors (of which only a first one's are in part untouched), and keeps the last packets in their buffers of
// 64 KiB: so it is there while there is much to write, and retire lets it go.
type writer struct {
	raw  syscall.RawConn // the TUN
	poll func(fd uintptr) (done bool)

	mu                 sync.Mutex    // of what follows
	joiner             tun.GRODevice // nil: none at the moment
	used               bool          // for more than a few, since retire has looked
	frame              []byte        // that is being written
	written            int
	err                error
	noTCPGRO, noUDPGRO bool
}

// Write gives each of bufs to the pod, from offset on. What is in front of that is lost. It fails with os.ErrClosed when the interface
// is gone.
func (w *writer) Write(bufs [][]byte, offset int) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// The first joiner has to see two packets that tailscale joins for a trial when it starts.
	// If there is nothing to make one of, such as a descriptor, each is written by itself.
	if (len(bufs) > few || len(bufs) > 1 && w.joiner != nil) && w.open() == nil {
		w.used = w.used || len(bufs) > few
		return w.joiner.Write(bufs, offset)
	}
	for _, buf := range bufs {
		written, failed := w.writeFrame(buf[offset-offloadLen:])
		n += written
		err = errors.Join(err, failed)
	}
	return n, err
}

// writeFrame writes one packet, of which nothing is left to the kernel.
func (w *writer) writeFrame(frame []byte) (n int, err error) {
	clear(frame[:offloadLen])
	w.frame, w.written, w.err = frame, 0, nil
	waited := w.raw.Write(w.poll)
	w.frame = nil
	return max(w.written, 0), closed(cmp.Or(waited, w.err))
}

// writable writes the frame, and tells whether it could.
func (w *writer) writable(fd uintptr) (done bool) {
	for {
		if w.written, w.err = unix.Write(int(fd), w.frame); w.err != unix.EINTR {
			return w.err != unix.EAGAIN
		}
	}
}

// open makes the joiner, with a descriptor of its own, if there is none. w.mu is held.
func (w *writer) open() error {
	if w.joiner != nil {
		return nil
	}
	var fd int
	var failed error
	err := w.raw.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err := cmp.Or(err, failed); err != nil {
		return err
	}
	made, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return closed(err)
	}
	w.joiner = made.(tun.GRODevice)
	if w.noTCPGRO {
		w.joiner.DisableTCPGRO()
	}
	if w.noUDPGRO {
		w.joiner.DisableUDPGRO()
	}
	return nil
}

// closed is os.ErrClosed for what the kernel says of an interface that has been deleted.
func closed(err error) error {
	if errors.Is(err, unix.EBADFD) {
		return os.ErrClosed
	}
	return err
}

// retire lets the joiner go if it has not been needed since the last time, and tells whether it has.
func (w *writer) retire() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	needed := w.used
	w.used = false
	if needed || w.joiner == nil {
		return false
	}
	w.drop()
	return true
}

func (w *writer) drop() {
	if w.joiner != nil {
		w.joiner.Close()
		w.joiner = nil
	}
}

// DisableTCPGRO keeps TCP packets apart from now on.
func (w *writer) DisableTCPGRO() { w.disable(&w.noTCPGRO) }

// DisableUDPGRO keeps UDP packets apart from now on.
func (w *writer) DisableUDPGRO() { w.disable(&w.noUDPGRO) }

func (w *writer) disable(flag *bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*flag = true
	w.drop() // the next joiner is made without
}
