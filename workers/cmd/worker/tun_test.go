package main

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"github.com/tailscale/wireguard-go/tun"
	"golang.org/x/sys/unix"
)

const (
	batch  = 128 // what WireGuard reads at once
	offset = 16  // what it leaves free in front of a packet that is written
)

var (
	podAddr  = netip.MustParseAddr("100.64.0.1")
	peerAddr = netip.MustParseAddr("100.64.0.2")
)

// What a pod has sent by the time that it is read is read at once, in its order, and whole.
func TestReadsWhatWaits(t *testing.T) {
	d, send := newDevice(t)
	for n := range 10 {
		send(0, []byte{byte(n)})
	}
	d.release()
	got := read(t, d)
	if len(got) != 10 {
		t.Fatalf("of 10 packets %d were read at once", len(got))
	}
	for n, payload := range got {
		if len(payload) != 1 || payload[0] != byte(n) {
			t.Errorf("packet %d is %v", n, payload)
		}
	}
	if n := d.packets.Load(); n != 10 {
		t.Errorf("%d are counted", n)
	}
}

// What one send of the pod's is segmented to stays together, however much it is, and what would be too much with it is read next.
func TestReadsAllOfWhatIsSegmented(t *testing.T) {
	d, send := newDevice(t)
	const size = 100
	sends := []int{20, 20, 60, 1}
	want := sends
	if !d.segmentsUDP(t) {
		want = []int{32, 32, 32, 5} // the kernel has done it, and we see packets only
	}
	sent := 0
	for _, segments := range sends {
		payload := make([]byte, segments*size)
		for i := range segments {
			payload[i*size] = byte(sent)
			sent++
		}
		send(size, payload)
	}
	d.release()
	var batches []int
	for got := 0; got < sent; {
		payloads := read(t, d)
		batches = append(batches, len(payloads))
		for _, payload := range payloads {
			if len(payload) != size || payload[0] != byte(got) {
				t.Fatalf("packet %d is %v", got, payload)
			}
			got++
		}
	}
	if !slices.Equal(batches, want) {
		t.Errorf("read %v, want %v", batches, want)
	}
}

// A pod that may open raw sockets cannot end its own node by what it sends.
func TestDropsNonsense(t *testing.T) {
	d, send := newDevice(t)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	i, err := identify("tun0")
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: 8} // ETH_P_IP, in the network's byte order
	if err := unix.Sendto(fd, []byte{0x45}, 0, to); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		t.Fatal(err)
	}
	const tcp = unix.VIRTIO_NET_HDR_GSO_TCPV4
	large := make([]byte, math.MaxUint16) // of which the first segment would be longer than the buffers that packets are read into
	large[0] = 0x45
	if err := unix.Sendto(fd, frame(unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, tcp, 65490, 20, 16, large), 0, to); err != nil {
		t.Logf("this kernel does not take the frame: %v", err)
	}
	send(0, []byte("sense"))
	d.release()
	if got := read(t, d); len(got) != 1 || string(got[0]) != "sense" {
		t.Errorf("read %q", got)
	}
}

// What peers send arrives in its order, whoever lets go of the writer meanwhile; and one that is let go is garbage.
func TestWritesWhileTheWriterRetires(t *testing.T) {
	d, _ := newDevice(t)
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: podAddr.As4(), Port: 9}); err != nil {
		t.Fatal(err)
	}
	patience := unix.Timeval{Sec: 10}
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				d.retire()
			}
		}
	}()
	got := make([]byte, 10)
	for n := range byte(200) {
		var bufs [][]byte
		for range 1 + n%(2*few) {
			bufs = append(bufs, append(make([]byte, offset), datagram(n)...))
		}
		if _, err := d.Write(bufs, offset); err != nil {
			t.Fatal(err)
		}
		for range bufs {
			if size, err := unix.Read(socket, got); err != nil || size != 1 || got[0] != n {
				t.Fatalf("of %d arrives %v, %v", n, got[:max(0, size)], err)
			}
		}
	}
	close(stop)
	<-stopped
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	past := weak.Make(d.joiner.(*tun.NativeTun))
	d.used = true
	d.retire()
	if d.joiner == nil {
		t.Error("a writer that has just been used is let go")
	}
	d.retire()
	runtime.GC()
	if past.Value() != nil {
		t.Error("a writer that has retired is kept by somebody")
	}
}

// datagram is a byte from the peer to port 9 of the pod.
func datagram(payload byte) []byte {
	const ipHeader, udpHeader = 20, 8
	packet := make([]byte, ipHeader+udpHeader+1)
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP // version and length, hops
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	copy(packet[12:], peerAddr.AsSlice())
	copy(packet[16:], podAddr.AsSlice())
	binary.BigEndian.PutUint16(packet[10:], ^tun.Checksum(packet[:ipHeader], 0))
	udp := packet[ipHeader:]
	binary.BigEndian.PutUint16(udp[2:], 9)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	udp[udpHeader] = payload
	pseudo := tun.PseudoHeaderChecksum(unix.IPPROTO_UDP, packet[12:16], packet[16:20], uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], ^tun.Checksum(udp, pseudo))
	return packet
}

func TestReadEndsWithTheInterface(t *testing.T) {
	d, _ := newDevice(t)
	d.release()
	failed := make(chan error)
	go func() {
		_, err := d.Read(buffers())
		failed <- err
	}()
	time.Sleep(10 * time.Millisecond) // so that, most often, it waits by then; it ends either way
	d.ip("link delete tun0")
	if err := <-failed; !errors.Is(err, os.ErrClosed) {
		t.Errorf("it fails with %v", err)
	}
	<-d.gone
}

// FuzzFrame looks for a frame that ends the worker.
func FuzzFrame(f *testing.F) {
	udp := make([]byte, 60)
	udp[0] = 0x45
	f.Add(byte(0), byte(0), uint16(0), uint16(0), uint16(0), udp)
	f.Add(byte(1), byte(0), uint16(0), uint16(20), uint16(6), udp)
	f.Add(byte(1), byte(unix.VIRTIO_NET_HDR_GSO_UDP_L4), uint16(8), uint16(20), uint16(6), udp)
	f.Add(byte(1), byte(unix.VIRTIO_NET_HDR_GSO_TCPV4), uint16(8), uint16(20), uint16(16), udp)
	f.Add(byte(1), byte(unix.VIRTIO_NET_HDR_GSO_TCPV6), uint16(0), uint16(65535), uint16(65535), udp)
	// Three that only a raw socket sends: segments, a packet, and headers, each of nearly all that a frame has room for.
	large := make([]byte, math.MaxUint16)
	large[0] = 0x45
	f.Add(byte(1), byte(unix.VIRTIO_NET_HDR_GSO_TCPV4), uint16(65490), uint16(20), uint16(16), large)
	f.Add(byte(0), byte(0), uint16(0), uint16(0), uint16(0), large[:math.MaxUint16-offset])
	f.Add(byte(1), byte(unix.VIRTIO_NET_HDR_GSO_UDP_L4), uint16(1), uint16(60000), uint16(6), large)
	slab, packets := buffers()
	f.Fuzz(func(t *testing.T, flags, gso byte, size, start, offset uint16, packet []byte) {
		d := &device{held: frame(flags, gso, size, start, offset, packet)}
		n, err := d.readWaiting(-1, slab, packets) // and then from no descriptor
		if n > batch || err != nil && !errors.Is(err, unix.EBADF) {
			t.Errorf("%d, %v", n, err)
		}
		for i := range n {
			if p := packets[i]; p.Size > longest || p.Offset < tun.ReadPacketSpacing || p.Offset+p.Size > len(slab)-tun.ReadPacketSpacing {
				t.Errorf("packet %d is at %+v", i, p)
			}
		}
	})
}

// A checksum that comes to 0 has another form: 0 itself says that there is none, and whoever gets UDP over IPv6 without drops it.
func TestSendsNoZeroChecksum(t *testing.T) {
	const ipHeader, udpHeader, sumAt = 40, 8, 6
	packet := make([]byte, ipHeader+udpHeader+2)
	packet[0] = 0x60
	copy(packet[ipHeader+udpHeader:], "\xff\xff") // the only words of the datagram that are not 0
	slab, packets := buffers()
	d := &device{held: frame(unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_NONE, 0, ipHeader, sumAt, packet)}
	if n, _ := d.readWaiting(-1, slab, packets); n != 1 {
		t.Fatalf("%d packets", n)
	}
	if sum := slab[packets[0].Offset+ipHeader+sumAt:][:2]; string(sum) != "\xff\xff" {
		t.Errorf("checksum %x", sum)
	}
}

func frame(flags, gso byte, size, start, offset uint16, packet []byte) []byte {
	f := []byte{flags, gso, 0, 0}
	for _, field := range []uint16{size, start, offset} {
		f = binary.NativeEndian.AppendUint16(f, field)
	}
	return append(f, packet...)
}

// testDevice is a device whose interface, tun0, is in a network namespace of the test's.
type testDevice struct {
	*device
	ip func(arguments string)
}

// newDevice gives one, and what sends UDP through it: as one datagram, or as one for each size bytes.
func newDevice(t *testing.T) (d testDevice, send func(size int, payload []byte)) {
	ip := inNetns(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq("tun0")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatal(err)
	}
	made, err := openTUN(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close() })
	if err := made.File().SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil { // what is lost fails, and does not hang
		t.Fatal(err)
	}
	ip("link set tun0 addrgenmode none") // so that the kernel sends nothing of its own
	ip("address add " + podAddr.String() + "/10 dev tun0")
	ip("link set tun0 up")
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	send = func(size int, payload []byte) {
		if err := unix.SetsockoptInt(socket, unix.SOL_UDP, unix.UDP_SEGMENT, size); err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendto(socket, payload, 0, &unix.SockaddrInet4{Addr: peerAddr.As4(), Port: 9}); err != nil {
			t.Fatal(err)
		}
	}
	return testDevice{made, ip}, send
}

// segmentsUDP tells whether the kernel leaves that to us: since Linux 6.2.
func (d testDevice) segmentsUDP(t *testing.T) (it bool) {
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_USO4 | unix.TUN_F_USO6
	err := d.raw.Control(func(fd uintptr) { it = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, offloads) == nil })
	if err != nil {
		t.Fatal(err)
	}
	return it
}

func buffers() ([]byte, []tun.ReadPacket) {
	return make([]byte, 2*math.MaxUint16), make([]tun.ReadPacket, batch) // as WireGuard's are
}

// read is one batch: the payloads of UDP packets whose checksums are right.
func read(t *testing.T, d testDevice) (payloads [][]byte) {
	t.Helper()
	slab, packets := buffers()
	n, err := d.Read(slab, packets)
	if err != nil {
		t.Fatal(err)
	}
	const ipHeader, udpHeader = 20, 8
	for i, p := range packets[:n] {
		packet := slab[p.Offset : p.Offset+p.Size]
		udp := packet[ipHeader:]
		pseudo := tun.PseudoHeaderChecksum(unix.IPPROTO_UDP, podAddr.AsSlice(), peerAddr.AsSlice(), uint16(len(udp)))
		if tun.Checksum(packet[:ipHeader], 0) != 0xffff || tun.Checksum(udp, pseudo) != 0xffff {
			t.Errorf("packet %d has wrong checksums: %x", i, packet)
		}
		payloads = append(payloads, udp[udpHeader:])
	}
	return payloads
}
