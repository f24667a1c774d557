package device

import (
	"bytes"
	"os"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

const bufferSize = 1<<16 - 1 // MaxMessageSize

// filled are buffers that have been used.
func filled(t *testing.T, n int) [][]byte {
	if os.Getpagesize() > bufferSize/2 {
		t.Skip("no buffer has a page of its own here")
	}
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = bytes.Repeat([]byte{0xa5}, bufferSize)
	}
	return bufs
}

// given counts the buffers whose first whole page is the kernel's again.
func given(bufs [][]byte) (n int) {
	page := os.Getpagesize()
	for _, buf := range bufs {
		if bytes.Count(aligned(buf)[:page], []byte{0}) == page {
			n++
		}
	}
	return n
}

// aligned is buf from its first whole page on.
func aligned(buf []byte) []byte {
	return buf[-uintptr(unsafe.Pointer(unsafe.SliceData(buf)))&uintptr(os.Getpagesize()-1):]
}

func TestBuffersAreGivenBackAfterABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lent
		bufs := filled(t, 128)
		for range 10 { // of a second each
			l.wait(bufs)
			time.Sleep(time.Second)
			l.wake(few + 1)
		}
		l.wait(bufs)
		time.Sleep(calm - time.Millisecond)
		if n := given(bufs); n != 0 {
			t.Errorf("%d are given back so soon", n)
		}
		time.Sleep(calm)
		if n := given(bufs); n != len(bufs) {
			t.Errorf("%d are given back", n)
		}
	})
}

func TestBuffersStayWhileFewPacketsCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lent
		bufs := filled(t, 1)
		for range 100 {
			l.wait(bufs)
			time.Sleep(time.Second)
			l.wake(few)
		}
		l.wait(bufs)
		time.Sleep(time.Minute)
		if n := given(bufs); n != 0 {
			t.Errorf("%d are given back", n)
		}
	})
}

func TestBuffersThatAreLookedAtAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lent
		bufs := filled(t, 128)
		l.wait(bufs)
		l.wake(len(bufs))
		time.Sleep(time.Minute)
		if n := given(bufs); n != 0 {
			t.Errorf("%d are given back", n)
		}
		l.wait(bufs)
		l.wake(len(bufs)) // and the next burst counts again
		l.wait(bufs)
		time.Sleep(time.Minute)
		if n := given(bufs); n != len(bufs) {
			t.Errorf("%d are given back", n)
		}
	})
}

// Memory that belongs to others lies on both sides of a buffer.
func TestOnlyWholePagesAreGivenBack(t *testing.T) {
	page := os.Getpagesize()
	all := aligned(bytes.Repeat([]byte{0xa5}, 8*page))
	for _, c := range []struct{ from, to, want int }{
		{1, 3*page - 1, 1},
		{0, page, 1},
		{1, page + 1, 0},
		{0, page - 1, 0},
		{1, 2, 0},
		{0, 0, 0},
	} {
		part := all[:4*page]
		copy(part, bytes.Repeat([]byte{0xa5}, len(part)))
		giveBack(part[c.from:c.to])
		if got := bytes.Count(part, []byte{0}); got != c.want*page {
			t.Errorf("%d to %d of %d: %d bytes are zero", c.from, c.to, page, got)
		}
	}
}
