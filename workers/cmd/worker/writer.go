package main

import (
	"cmp"
	"sync"
	"syscall"

	"github.com/tailscale/wireguard-go/tun"
	"golang.org/x/sys/unix"
)

// writer gives packets to a TUN as wireguard-go does, which joins those of one connection. For that it has half a megabyte of vectors
// from its beginning, and keeps the last packets in their buffers of 64 KiB: so it is there while there is something to write, and retire
// lets it go.
type writer struct {
	raw syscall.RawConn // the TUN

	mu                 sync.Mutex    // of what follows
	now                tun.GRODevice // nil: none at the moment
	noTCPGRO, noUDPGRO bool
}

// Write is wireguard-go's.
func (w *writer) Write(bufs [][]byte, offset int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.open(); err != nil {
		return 0, err
	}
	return w.now.Write(bufs, offset)
}

// open makes it, with a descriptor of its own, if it is not there. w.mu is held.
func (w *writer) open() error {
	if w.now != nil {
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
		return err
	}
	w.now = made.(tun.GRODevice)
	if w.noTCPGRO {
		w.now.DisableTCPGRO()
	}
	if w.noUDPGRO {
		w.now.DisableUDPGRO()
	}
	return nil
}

// retire lets it go until there is something to write.
func (w *writer) retire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop()
}

func (w *writer) drop() {
	if w.now != nil {
		w.now.Close()
		w.now = nil
	}
}

// DisableTCPGRO keeps TCP packets apart from now on.
func (w *writer) DisableTCPGRO() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noTCPGRO = true
	w.drop()
}

// DisableUDPGRO keeps UDP packets apart from now on.
func (w *writer) DisableUDPGRO() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noUDPGRO = true
	w.drop()
}
