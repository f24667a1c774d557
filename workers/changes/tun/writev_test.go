package tun

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWritev(t *testing.T) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	bufs := [][]byte{[]byte("one "), nil, []byte("after ")}
	for range 200 { // more than fit on the stack
		bufs = append(bufs, []byte("another "))
	}
	want := "one after " + strings.Repeat("another ", 200)
	if n, err := writev(to.Fd(), bufs); n != len(want) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	to.Close()
	if got, _ := io.ReadAll(from); string(got) != want {
		t.Errorf("%q arrives", got)
	}
	if n, err := writev(^uintptr(0), bufs); n != 0 || !errors.Is(err, unix.EBADF) {
		t.Errorf("to no descriptor: %d, %v", n, err)
	}
}

func TestWritevLeavesNoGarbage(t *testing.T) {
	to, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	bufs := make([][]byte, 128)
	for i := range bufs {
		bufs[i] = make([]byte, 1240)
	}
	fd := to.Fd()
	if made := testing.AllocsPerRun(100, func() { writev(fd, bufs) }); made != 0 {
		t.Errorf("%v pieces of memory for a call", made)
	}
}
