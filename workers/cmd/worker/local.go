package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"tailscale.com/client/local"
)

// localAPI lets whoever can reach the inherited socket speak to tsnet's LocalAPI, which listens in memory only.
type localAPI struct {
	listener net.Listener
	lc       *local.Client
	open     sync.WaitGroup // connections
}

func serveLocalAPI(fd uintptr, lc *local.Client) (*localAPI, error) {
	f := os.NewFile(fd, "local.sock")
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d is no listening socket: %w", fd, err)
	}
	a := &localAPI{listener: listener, lc: lc}
	go a.serve()
	return a, nil
}

func (a *localAPI) serve() {
	for {
		outer, err := a.listener.Accept()
		if err != nil {
			time.Sleep(100 * time.Millisecond) // too many open files, say
			continue
		}
		a.open.Go(func() { a.splice(outer) })
	}
}

// splice copies both ways until both sides have said all.
func (a *localAPI) splice(outer net.Conn) {
	defer outer.Close()
	inner, err := a.lc.Dial(context.Background(), "tcp", "local-tailscaled.sock:80")
	if err != nil {
		return
	}
	defer inner.Close()
	go func() {
		io.Copy(inner, outer) // the caller went: so does the request
		inner.Close()
	}()
	io.Copy(outer, inner)
}

// drain waits until answers that are on their way have been delivered, but not for long: a watcher of the bus never ends.
func (a *localAPI) drain(d time.Duration) {
	done := make(chan struct{})
	go func() {
		a.open.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}
