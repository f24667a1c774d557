package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"tailscale.com/client/local"
	_ "tailscale.com/feature/ssh"
	_ "tailscale.com/feature/taildrop"
	"tailscale.com/ipn"
	"tailscale.com/ipn/store"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/tsnet"

	"tailscale-cni/workers/internal/exits"
)

const (
	stateFile   = "tailscaled.state"
	netmapCache = "profile-data"
	probePeriod = 30 * time.Second // between two questions whether the control plane still knows us
	drainTime   = time.Second
	firstLook   = 100 * time.Millisecond // whether the control plane knows us, which says so at once if it is there
	longestLook = 30 * time.Second
	holdTime    = time.Second // how long the pod's packets wait, at most, for paths to earlier peers
	logoutRetry = time.Second
)

// node is the Tailscale node that this process is.
type node struct {
	spec
	log    *logger
	say    messages
	tun    *device // nil: none
	server *tsnet.Server
	lc     *local.Client
	peers  *peerFile
	before []netip.Addr // active peers of an earlier life, which are greeted
	api    *localAPI
	exit   chan int // the first status that is sent is the process's

	registered bool        // the state directory holds a node's keys
	restored   atomic.Bool // preferences of the earlier life are in force again
	suspect    atomic.Bool // the control plane said that it does not know us
	expired    atomic.Bool // it said that our node key is too old
	leaving    atomic.Bool // we are told to log out
	hadKey     bool

	// what the bus told us last; touched by follow only
	addressed bool // the control plane has given us an address
	running   bool // it has been
	prefs     *ipn.Prefs
	addresses []netip.Prefix
	known     map[tailcfg.NodeID]peerRoutes // if wantsPeers
	told      string                        // digest of what the kernel was last told to be
}

// run is the node until it ends; it returns the exit status.
func run(s spec) int {
	n := &node{spec: s, log: newLogger(s.verbose), say: messages{os.Stdout}, exit: make(chan int, 8), known: map[tailcfg.NodeID]peerRoutes{}}
	stdlog.SetFlags(0)
	stdlog.SetOutput(n.log)
	stdin := bufio.NewReaderSize(os.Stdin, maxLine)
	line, err := readStartLine(stdin)
	if err != nil {
		n.log.printf("%v", err)
		return exits.Crash
	}
	n.log.hide(line.key)
	if status, err := n.start(line); err != nil {
		n.log.printf("%v", err)
		return status
	}
	go n.obey(stdin)
	go n.follow()
	return <-n.exit
}

// obey does as the supervisor says, and ends with it.
func (n *node) obey(stdin *bufio.Reader) {
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-terminate
		n.exit <- exits.Done
	}()
	watchCommands(stdin, func() { go n.logout() })
	n.exit <- exits.Done
}

// start begins the node's life. With an error it returns the exit status that this means.
func (n *node) start(line startLine) (int, error) {
	if line.forget {
		if err := forget(); err != nil {
			return exits.Crash, err
		}
	}
	state, err := store.NewFileStore(n.log.tailscale, stateFile)
	if err != nil {
		return exits.Crash, err
	}
	n.registered, n.hadKey = hasNodeKey(state), line.key != ""
	if !n.registered && !n.hadKey {
		return exits.NeedsKey, errors.New("not registered yet, and there is no auth key")
	}
	prefs, err := loadPrefs()
	if err != nil {
		n.log.printf("preferences are lost: %v", err)
	}
	if err := portIsFree(n.port); err != nil {
		return exits.PortBusy, err
	}
	n.server = &tsnet.Server{
		Dir:        ".",
		Store:      state,
		Hostname:   n.hostname,
		ControlURL: n.controlURL,
		AuthKey:    line.key,
		Port:       n.port,
		Logf:       n.watchLog,
		UserLogf:   n.log.tailscale,
		// Ephemeral is never set: tsnet would log out at every end of the process. The auth key decides.
		// AdvertiseTags neither: Headscale refuses them beside an auth key that has tags.
	}
	if n.spec.tun != "" {
		if n.tun, err = openTUN(fdTUN); err != nil {
			return exits.Crash, err
		}
		n.server.Tun = n.tun
		// Where it is in the network that we live in, an address that is added to it is no change of that.
		if i, err := identify(n.spec.tun); err == nil {
			netmon.SetTailscaleInterfaceProps(i.Name, i.Index)
		}
		go n.watchTUN()
	}
	n.peers = newPeerFile(fdPeers)
	if n.before = n.peers.read(); len(n.before) == 0 {
		n.releaseTUN()
	}
	time.AfterFunc(holdTime, n.releaseTUN)
	watchInterfaces()
	if n.lc, err = n.server.LocalClient(); err != nil {
		return exits.Crash, err
	}
	if n.tun != nil {
		go giveBackMemory(n.tun) // not before tailscale has tried whether the interface's joiner joins
	}
	if err := ignoreLinkLocal(); err != nil {
		n.log.printf("each pod of this host that starts or stops wakes this one: %v", err)
	}
	if err := restorePrefs(context.Background(), n.lc, prefs); err != nil {
		n.log.printf("preferences could not be set again: %v", err)
	}
	n.restored.Store(true)
	n.api, err = serveLocalAPI(fdLocal, n.lc)
	return exits.Crash, err
}

// releaseTUN lets the pod's packets in. The first one to a peer makes a handshake, and one that is made before there is a path to
// the peer is lost, and with it five seconds.
func (n *node) releaseTUN() {
	if n.tun != nil {
		n.tun.release()
	}
}

// forget makes us a new node: keys and the netmap that belongs to them go, preferences stay.
func forget() error {
	return errors.Join(os.RemoveAll(stateFile), os.RemoveAll(netmapCache))
}

// hasNodeKey reports whether the state is that of a node which has been registered and has not logged out.
func hasNodeKey(s ipn.StateStore) bool {
	profile, err := s.ReadState(ipn.CurrentProfileStateKey)
	if err != nil || len(profile) == 0 {
		return false
	}
	text, err := s.ReadState(ipn.StateKey(profile))
	if err != nil {
		return false
	}
	prefs := ipn.NewPrefs()
	if err := ipn.PrefsFromBytes(text, prefs); err != nil {
		return false
	}
	return prefs.Persist != nil && !prefs.Persist.PrivateNodeKey.IsZero()
}

// portIsFree says so clearly if somebody else has the port: tailscale would silently take another one.
func portIsFree(port uint16) error {
	if port == 0 {
		return nil
	}
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("UDP port %d is in use by another process", port)
		}
		if err == nil {
			c.Close()
		}
	}
	return nil
}

func (n *node) watchTUN() {
	<-n.tun.gone
	n.log.printf("the interface %s is gone", n.spec.tun)
	n.exit <- exits.TUNGone
}

// watchLog is where tailscale logs to, and the only place to learn three things. That the control plane does not know a node any
// more: the client tries again for ever; it is a reason to ask, no proof. That it knows the node, but its key has expired. And that a
// socket is new, and has a smaller buffer than it wants: the supervisor may do what we may not.
func (n *node) watchLog(format string, args ...any) {
	n.log.tailscale(format, args...)
	if strings.Contains(format, "server reports new node key %v has expired") {
		n.expired.Store(true)
	}
	if strings.Contains(format, "failed to force-set UDP %v buffer size") {
		n.say.sockets()
	}
	if !strings.Contains(format, "Received error: %v") {
		return
	}
	if text := fmt.Sprintf(format, args...); refusedPoll.MatchString(text) && !n.suspect.Swap(true) {
		go n.probe()
	}
}

// refusedPoll is what a client says of a control plane that answers a poll by 400 (testcontrol) or 404 (all the others).
var refusedPoll = regexp.MustCompile(`PollNetMap: initial fetch failed 40[04]`)

// probe registers again with the keys that we have. A control plane that knows us says yes; one that does not wants somebody
// to log in, which follow sees.
func (n *node) probe() {
	n.log.printf("the control plane refuses our polls: asking whether it still knows this node")
	if err := n.lc.Start(context.Background(), ipn.Options{}); err != nil {
		n.log.printf("%v", err)
	}
	time.Sleep(probePeriod)
	n.suspect.Store(false)
}

// logout makes the control plane forget us, as often as it takes, and ends.
func (n *node) logout() {
	n.leaving.Store(true)
	for {
		err := n.lc.Logout(context.Background())
		if err == nil {
			n.log.printf("logged out")
			n.exit <- exits.Done
			return
		}
		n.log.printf("logout: %v", err)
		time.Sleep(logoutRetry)
	}
}

// follow watches what becomes of the node.
func (n *node) follow() {
	before := n.before
	for {
		// The news of peers is what most of the bus is: a tailnet of fifty nodes that are up and down. It is JSON, and its reader pays for
		// both sides.
		peers := n.wantsPeers()
		mask := ipn.NotifyInitialState | ipn.NotifyInitialPrefs | ipn.NotifyPeerWireGuardState
		if peers {
			mask |= ipn.NotifyInitialStatus | ipn.NotifyPeerPatches
		}
		ctx, cancel := context.WithCancel(context.Background())
		watcher, err := n.lc.WatchIPNBus(ctx, mask)
		if err == nil {
			err = n.askAddresses(ctx)
		}
		for err == nil && peers == n.wantsPeers() {
			var notify ipn.Notify
			if notify, err = watcher.Next(); err == nil {
				n.take(&notify)
			}
			if n.running && before != nil {
				go greet(context.Background(), n.lc, before, n.log, n.releaseTUN)
				before = nil
			}
		}
		cancel()
		if err != nil {
			// We fell behind: begin again with the current state.
			n.log.tailscale("bus: %v", err)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// wantsPeers reports whether the kernel has routes that depend on what peers are.
func (n *node) wantsPeers() bool { return n.peerRoutes || n.prefs != nil && n.prefs.RouteAll }

// askAddresses learns what our addresses are by now. From then on the bus says when they change.
func (n *node) askAddresses(ctx context.Context) error {
	status, err := n.lc.StatusWithoutPeers(ctx)
	if err != nil {
		return err
	}
	n.addresses = nil
	for _, a := range status.TailscaleIPs {
		n.addresses = append(n.addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	return nil
}

// take acts on one message of the bus.
func (n *node) take(m *ipn.Notify) {
	if m.ErrMessage != nil {
		n.refused(*m.ErrMessage)
	}
	if m.BrowseToURL != nil && *m.BrowseToURL != "" {
		n.needsLogin()
	}
	if m.Prefs != nil && m.Prefs.Valid() {
		n.takePrefs(m.Prefs.AsStruct())
	}
	if m.InitialStatus != nil {
		n.known = map[tailcfg.NodeID]peerRoutes{}
		for _, p := range m.InitialStatus.Peer {
			n.known[p.NodeID] = routesOfStatus(p)
		}
	}
	if m.SelfChange != nil {
		n.addresses = m.SelfChange.Addresses
	}
	for _, p := range m.PeersChanged {
		n.known[p.ID] = peerRoutes{p.Addresses, p.AllowedIPs}
	}
	for _, id := range m.PeersRemoved {
		delete(n.known, id)
	}
	if m.State != nil {
		n.takeState(*m.State)
	}
	n.tellKernel()
	if len(m.PeerState) > 0 {
		n.peers.note(m.PeerState)
		go func() {
			if err := n.peers.save(context.Background(), n.lc); err != nil {
				n.log.tailscale("peers: %v", err)
			}
		}()
	}
}

// refused handles an error that the control plane means for people. A registration that is limited is tried again by itself.
func (n *node) refused(why string) {
	if n.running || strings.Contains(why, "rate limited") || !strings.Contains(why, "key") {
		n.log.printf("tailscale: %s", why)
		return
	}
	n.log.printf("the control plane refused to register this node: %s", why)
	n.exit <- exits.NeedsKey
}

// needsLogin handles a control plane that wants a person to log in: it does not know the node, or the node's key expired.
func (n *node) needsLogin() {
	if n.endsByLogout() {
		return
	}
	if n.registered && !n.expired.Load() && !n.hadKey {
		n.log.printf("the control plane does not know this node any more")
		n.exit <- exits.Forgotten
		return
	}
	n.log.printf("the control plane wants somebody to log in: an auth key is needed")
	n.exit <- exits.NeedsKey
}

// takePrefs remembers the preferences, and ends when somebody has logged the node out.
func (n *node) takePrefs(p *ipn.Prefs) {
	n.prefs = p
	if p.LoggedOut {
		n.endsByLogout()
		return
	}
	if n.restored.Load() {
		if err := savePrefs(p); err != nil {
			n.log.printf("preferences cannot be remembered: %v", err)
		}
	}
}

// endsByLogout reports whether there is no node key because of a logout, and ends us if nobody else does.
func (n *node) endsByLogout() bool {
	if n.leaving.Load() {
		return true
	}
	if !n.registered || hasNodeKey(n.server.Store) {
		return false
	}
	n.wasLoggedOut()
	return true
}

// wasLoggedOut ends us when somebody has logged the node out through the LocalAPI, and has his answer.
func (n *node) wasLoggedOut() {
	n.log.printf("the node was logged out")
	n.api.drain(drainTime)
	n.exit <- exits.Done
}

func (n *node) loggedOut() bool { return n.prefs != nil && n.prefs.LoggedOut }

func (n *node) takeState(s ipn.State) {
	if s == ipn.Starting || s == ipn.Running {
		n.addressed = true
	}
	switch {
	case s == ipn.Running && !n.running:
		n.running, n.registered, n.hadKey = true, true, false
		n.say.running()
		go n.awaitControl()
	case s == ipn.NeedsMachineAuth:
		n.log.printf("waiting for an admin to approve this node")
	case s == ipn.NeedsLogin && n.running && !n.suspect.Load() && !n.loggedOut() && !n.endsByLogout():
		n.log.printf("the node's key has expired")
		n.exit <- exits.NeedsKey
	}
}

// awaitControl says online as soon as the control plane has shown that it knows us: a node is Running with a map that it has kept, too.
func (n *node) awaitControl() {
	for pause := firstLook; ; pause = min(2*pause, longestLook) {
		status, err := n.lc.StatusWithoutPeers(context.Background())
		if err == nil && status.Self != nil && status.Self.Online {
			n.say.online()
			return
		}
		time.Sleep(pause)
	}
}

// tellKernel says sync when our addresses or the routes through us are not what they were.
func (n *node) tellKernel() {
	if !n.addressed || len(n.addresses) == 0 || n.prefs == nil {
		return
	}
	if now := digest(n.addresses, n.known, n.prefs, n.peerRoutes); now != n.told {
		n.told = now
		n.say.sync()
	}
}
