package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tailscale/wireguard-go/conn"
	"github.com/tailscale/wireguard-go/tun"
	"golang.org/x/sys/unix"
)

const (
	tunMTU = 1280 // what tailscale uses, and what the interface was made with
	// atOnce is how many packets are read together, unless one send of the pod has more segments. More gains little, and costs memory
	// while there is traffic.
	atOnce = 32
	// longest is the largest size of a packet, and of the headers of a frame, in bytes. The interface's packets are not longer than tunMTU
	// unless somebody in the pod has changed that, but those of a raw socket may be.
	longest = 9000
)

// device is the TUN that we inherit. It counts packets, and tells when the interface is gone.
type device struct {
	writer
	file    *os.File
	name    string
	events  chan tun.Event // there are none
	frame   []byte         // where the kernel writes what is read
	held    []byte         // what of it is read, and would have been too much before
	into    reading        // the Read that is under way; there is one at a time
	waiting func(fd uintptr) (done bool)
	packets atomic.Uint64 // both directions
	gone    chan struct{} // closed when the interface has been deleted
	once    sync.Once
	free    chan struct{} // closed when what the pod sends may be read
	freed   sync.Once
	closing sync.Once
}

// openTUN takes over a descriptor of a TUN that is attached and has its final flags. The interface may be in another network
// namespace.
func openTUN(fd int) (d *device, err error) {
	defer func() {
		if err != nil {
			d, err = nil, fmt.Errorf("descriptor %d is no usable TUN: %w", fd, err)
		}
	}()
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	d = &device{
		file:   os.NewFile(uintptr(fd), "/dev/net/tun"),
		events: make(chan tun.Event),
		frame:  make([]byte, offloadLen+math.MaxUint16),
		gone:   make(chan struct{}),
		free:   make(chan struct{}),
	}
	if d.raw, err = d.file.SyscallConn(); err != nil {
		return nil, err
	}
	d.waiting, d.poll = d.readable, d.writable // made once: those of each call would be a third of the garbage
	if err := d.open(); err != nil {
		return nil, err
	}
	if d.joiner.BatchSize() == 1 {
		return nil, errors.New("no IFF_VNET_HDR, which GRO needs")
	}
	d.name, err = d.joiner.Name()
	return d, err
}

// File, Name, Events and BatchSize are tun.Device's.
func (d *device) File() *os.File           { return d.file }
func (d *device) Name() (string, error)    { return d.name, nil }
func (d *device) Events() <-chan tun.Event { return d.events }
func (d *device) BatchSize() int           { return conn.IdealBatchSize }

// Close ends what is read and written.
func (d *device) Close() error {
	d.closing.Do(func() { close(d.events) })
	err := d.file.Close() // before what it makes, or that could be made anew in between
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop()
	return err
}

// MTU is not asked of the kernel: it would look for the interface's name in the wrong network namespace.
func (d *device) MTU() (int, error) { return tunMTU, nil }

// release lets what the pod sends be read. Until then the kernel keeps it.
func (d *device) release() { d.freed.Do(func() { close(d.free) }) }

// Read waits for release and for a packet. It also reads what else the pod has sent by then, up to atOnce packets, because packets that
// are read together are encrypted and sent together. (NativeTun reads one packet at a time, or the segments of one send, and three
// goroutines wake one another for it.) An error is final: the interface is gone, or the kernel failed.
func (d *device) Read(slab []byte, packets []tun.ReadPacket) (n int, err error) {
	<-d.free
	d.into = reading{slab: slab, packets: packets}
	waited := d.raw.Read(d.waiting)
	n, err = d.into.n, d.into.err
	d.packets.Add(uint64(n))
	if n > 0 {
		return n, nil // an error comes again
	}
	d.once.Do(func() { close(d.gone) })
	switch {
	case waited != nil:
		return 0, waited
	case errors.Is(err, unix.EBADFD): // the interface has been deleted
		return 0, os.ErrClosed
	default:
		return 0, err
	}
}

// reading holds the arguments of Read and its results.
type reading struct {
	slab    []byte
	packets []tun.ReadPacket
	n       int
	err     error
}

// readable reads what there is, and reports whether there was anything.
func (d *device) readable(fd uintptr) (done bool) {
	r := &d.into
	r.n, r.err = d.readWaiting(int(fd), r.slab, r.packets)
	return r.n > 0 || !errors.Is(r.err, unix.EAGAIN)
}

// readWaiting reads until there is no more, or enough.
func (d *device) readWaiting(fd int, slab []byte, packets []tun.ReadPacket) (n int, err error) {
	for used := 0; n < atOnce; {
		if d.held == nil {
			size, err := unix.Read(fd, d.frame)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return n, err
			}
			d.held = d.frame[:size]
		}
		packet, options, err := parseFrame(d.held)
		if err != nil {
			d.held = nil // dropped: a pod that may open raw sockets can send anything
			continue
		}
		if n > 0 && (n+segments(packet, options) > atOnce || roomFor(packet, options) > len(slab)-used) {
			return n, nil
		}
		d.held = nil
		made := split(packet, options, slab[used:], packets[n:])
		for i := range packets[n : n+made] {
			packets[n+i].Offset += used
		}
		if n += made; made > 0 {
			used = packets[n-1].Offset + packets[n-1].Size
		}
	}
	return n, nil
}

// split segments a packet and computes its checksums, where the kernel left that to us, and returns the number of packets. Packets that
// make no sense are dropped.
func split(packet []byte, o tun.GSOOptions, slab []byte, packets []tun.ReadPacket) int {
	n, _ := tun.GSOSplit(packet, o, slab, packets, tun.ReadPacketSpacing)
	if o.NeedsCsum {
		for _, p := range packets[:n] {
			// A checksum that comes to 0 is sent as 0xffff. 0 means that there is none, and IPv6 drops UDP without a checksum.
			at := p.Offset + int(o.CsumStart) + int(o.CsumOffset)
			if sum := slab[at : at+2]; sum[0] == 0 && sum[1] == 0 {
				sum[0], sum[1] = 0xff, 0xff
			}
		}
	}
	return n
}

func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	d.packets.Add(uint64(len(bufs)))
	return d.writer.Write(bufs, offset)
}

// offloadLen is the size of the header (struct virtio_net_hdr of linux/virtio_net.h, in the machine's byte order) in front of each packet.
const offloadLen = 10

// parseFrame tells a packet from what the kernel says of the work that it has left to us: its checksum, and its segmentation.
func parseFrame(frame []byte) (packet []byte, o tun.GSOOptions, err error) {
	if len(frame) < offloadLen {
		return nil, o, fmt.Errorf("%d bytes are no frame", len(frame))
	}
	header, packet := frame[:offloadLen], frame[offloadLen:]
	o = tun.GSOOptions{
		NeedsCsum:  header[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0,
		GSOSize:    binary.NativeEndian.Uint16(header[4:]),
		CsumStart:  binary.NativeEndian.Uint16(header[6:]),
		CsumOffset: binary.NativeEndian.Uint16(header[8:]),
	}
	size := len(packet)
	if header[1] != unix.VIRTIO_NET_HDR_GSO_NONE {
		if o.GSOType, o.HdrLen, err = transport(header[1], packet, int(o.CsumStart)); err != nil {
			return nil, o, err
		}
		size = min(size, int(o.HdrLen)+int(o.GSOSize))
	}
	if end := max(size, int(o.CsumStart)+int(o.CsumOffset)+2); end > longest {
		return nil, o, fmt.Errorf("%d bytes are no packet of the tailnet", end)
	}
	return packet, o, nil
}

// transport is what is to be segmented, and how long the headers are together. What the kernel says of that (bytes 2 and 3) is the length of
// the whole packet where it has forwarded it.
func transport(kind byte, packet []byte, start int) (t tun.GSOType, headers uint16, err error) {
	const udpHeader = 8
	const dataOffset, tcpHeader = 12, 20 // the latter without options
	switch kind {
	case unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		return tun.GSOUDPL4, uint16(start) + udpHeader, nil
	case unix.VIRTIO_NET_HDR_GSO_TCPV4:
		t = tun.GSOTCPv4
	case unix.VIRTIO_NET_HDR_GSO_TCPV6:
		t = tun.GSOTCPv6
	default:
		return t, 0, fmt.Errorf("segmentation %#x is not known", kind)
	}
	if len(packet) < start+tcpHeader {
		return t, 0, fmt.Errorf("%d bytes are no TCP packet", len(packet))
	}
	return t, uint16(start) + uint16(packet[start+dataOffset]>>4)*4, nil
}

// segments is how many packets a frame becomes at most.
func segments(packet []byte, o tun.GSOOptions) int {
	if o.GSOSize == 0 {
		return 1
	}
	return 1 + len(packet)/int(o.GSOSize)
}

// roomFor is how many bytes of a slab a frame needs at most.
func roomFor(packet []byte, o tun.GSOOptions) int {
	n := segments(packet, o)
	return len(packet) + (n-1)*int(o.HdrLen) + (n+1)*tun.ReadPacketSpacing
}
