package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// After a SIGKILL nobody but the peers knows who talked to whom, and they wait for an answer up to ten seconds. So the
// addresses of active peers are kept in a file that outlives the worker. At the next start each of them is asked for a path: with that it
// has taken in that we are another process, and whoever has something to say, the pod or the peer, makes a new session by that. Only
// if nobody has done so for a while does a ping of ours.
//
// The file is text: a line with its version, then one address a line.
const (
	peersHeader   = "peers 1"
	maxPeers      = 64 // pinged at a start, the others wait
	pingTimeout   = 10 * time.Second
	pathTimeout   = 200 * time.Millisecond // of one try to find a path
	settleTime    = 150 * time.Millisecond
	silence       = time.Second // by then TCP has sent again what it has, on either side
	maxPeersBytes = 1 << 16
)

// peerFile is the file behind an inherited descriptor.
type peerFile struct {
	f *os.File

	mu     sync.Mutex
	active map[tailcfg.StableNodeID]bool
	last   string
}

func newPeerFile(fd uintptr) *peerFile {
	return &peerFile{f: os.NewFile(fd, "peers"), active: map[tailcfg.StableNodeID]bool{}}
}

// read returns the addresses that are in the file; none if it is empty or not ours.
func (p *peerFile) read() []netip.Addr {
	text := make([]byte, maxPeersBytes)
	n, _ := p.f.ReadAt(text, 0) // io.EOF is the rule
	header, rest, _ := strings.Cut(string(text[:n]), "\n")
	if header != peersHeader {
		return nil
	}
	var addrs []netip.Addr
	for line := range strings.Lines(rest) {
		if a, err := netip.ParseAddr(strings.TrimSpace(line)); err == nil && len(addrs) < maxPeers {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// note takes over how the WireGuard sessions changed, in the order in which they did.
func (p *peerFile) note(states map[tailcfg.StableNodeID]ipn.PeerState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, s := range states {
		p.active[id] = s.PeerWireGuardState == ipn.PeerWireGuardStateEstablished
	}
}

// save writes the file if other peers are active now.
func (p *peerFile) save(ctx context.Context, lc *local.Client) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	status, err := lc.Status(ctx)
	if err != nil {
		return err
	}
	var lines []string
	for _, peer := range status.Peer {
		if p.active[peer.ID] && len(peer.TailscaleIPs) > 0 {
			lines = append(lines, peer.TailscaleIPs[0].String())
		}
	}
	slices.Sort(lines)
	return p.write(strings.Join(append([]string{peersHeader}, lines...), "\n") + "\n")
}

func (p *peerFile) write(text string) error {
	if text == p.last {
		return nil
	}
	p.last = text
	if _, err := p.f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return p.f.Truncate(int64(len(text)))
}

// greet finds a path to each of the peers, says when there is one to all of them, and sees to it that each has a session with us. One that
// does not answer is no error: it may be gone.
//
// No handshake is made at once: one that crosses the peer's own, which that makes for the first packet that it has for us, ends both,
// and WireGuard tries again after five seconds. A ping makes none where there is a session.
func greet(ctx context.Context, lc *local.Client, peers []netip.Addr, log *logger, reachable func()) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var all, paths sync.WaitGroup
	paths.Add(len(peers))
	go func() { paths.Wait(); reachable() }()
	for _, ip := range peers {
		all.Go(func() {
			err := findPath(ctx, lc, ip)
			paths.Done()
			if err == nil {
				time.Sleep(silence)
				_, err = lc.Ping(ctx, ip, tailcfg.PingTSMP)
			}
			if err != nil {
				log.tailscale("greeting %v: %v", ip, err)
			}
		})
	}
	all.Wait()
}

// findPath returns when there is a way to a peer, and the peer has taken in that we are another process: it ends the session that it
// had with the earlier one a moment after it answers, and a new session with it. WireGuard tries a handshake that went nowhere again only
// after five seconds, and right after the start a peer may not be known yet, or have no address yet.
func findPath(ctx context.Context, lc *local.Client, ip netip.Addr) error {
	for {
		try, cancel := context.WithTimeout(ctx, pathTimeout)
		found, err := lc.Ping(try, ip, tailcfg.PingDisco)
		cancel()
		if err == nil && found.Err == "" {
			time.Sleep(settleTime)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pathTimeout / 4):
		}
	}
}

// peerRoutes are a peer's own addresses, and all that goes to it (AllowedIPs: those and its subnets).
type peerRoutes struct{ addresses, allowed []netip.Prefix }

// routesOfStatus takes them from a status, which leaves out the length of the addresses.
func routesOfStatus(p *ipnstate.PeerStatus) (r peerRoutes) {
	for _, a := range p.TailscaleIPs {
		r.addresses = append(r.addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	if p.AllowedIPs != nil {
		r.allowed = p.AllowedIPs.AsSlice()
	}
	return r
}

// digest changes when the kernel must be told: our addresses, or the routes through us.
func digest(addresses []netip.Prefix, peers map[tailcfg.NodeID]peerRoutes, prefs *ipn.Prefs, needsPeers bool) string {
	var lines []string
	for id, p := range peers {
		for _, r := range p.allowed {
			if isOwn := slices.Contains(p.addresses, r); isOwn && !needsPeers || !isOwn && !prefs.RouteAll {
				continue
			}
			lines = append(lines, fmt.Sprintf("%d %v", id, r))
		}
	}
	slices.Sort(lines)
	return fmt.Sprint(addresses, prefs.RouteAll, prefs.ExitNodeID, prefs.ExitNodeIP, prefs.AdvertiseRoutes, lines)
}
