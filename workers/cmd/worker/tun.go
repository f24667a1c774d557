package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tailscale/wireguard-go/tun"
)

const tunMTU = 1280 // what tailscale uses, and what the interface was made with

// device is the TUN that we inherit. It counts packets, and tells when the interface is gone.
type device struct {
	tun.GRODevice
	packets atomic.Uint64 // both directions
	gone    chan struct{} // closed when the interface has been deleted
	once    sync.Once
	free    chan struct{} // closed when what the pod sends may be read
	freed   sync.Once
}

// openTUN takes over a descriptor of a TUN that is attached and has its final flags. The interface may be in another network
// namespace.
func openTUN(fd int) (*device, error) {
	d, name, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is no usable TUN: %w", fd, err)
	}
	gro, ok := d.(tun.GRODevice)
	if !ok {
		return nil, fmt.Errorf("TUN %s: no GRO", name)
	}
	return &device{GRODevice: gro, gone: make(chan struct{}), free: make(chan struct{})}, nil
}

// MTU is not asked of the kernel: it would look for the interface's name in the wrong network namespace.
func (d *device) MTU() (int, error) { return tunMTU, nil }

// release lets what the pod sends be read. Until then the kernel keeps it.
func (d *device) release() { d.freed.Do(func() { close(d.free) }) }

// Read waits for release, and fails for good only when the interface is gone.
func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	<-d.free
	n, err := d.GRODevice.Read(bufs, sizes, offset)
	d.packets.Add(uint64(n))
	if err != nil && !errors.Is(err, tun.ErrTooManySegments) {
		d.once.Do(func() { close(d.gone) })
	}
	return n, err
}

func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	n, err := d.GRODevice.Write(bufs, offset)
	d.packets.Add(uint64(len(bufs)))
	return n, err
}
