// Package devcontrol is a Tailscale control plane for the demo and the tests: one tailnet, kept in memory and optionally in a file. It
// implements what a control plane decides (auth keys, addresses, names, tags, ephemeral nodes, deletions), MagicDNS, a DERP relay and STUN.
//
// It uses tailscale.com's own packages for the protocol. It is not based on tailscale.com/tstest/integration/testcontrol, which can neither
// delete a node nor keep its keys over a restart, and has only one auth key.
//
// It must be used only for tests: without a policy file, every node may reach every node.
package devcontrol

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/dnsname"
)

// The errors of a registration have the texts of real control planes, because users see them in the worker's log.
var (
	errKeyUnknown = errors.New("invalid pre auth key")
	errKeyExpired = errors.New("authkey expired")
	errKeyUsed    = errors.New("authkey already used")
)

// ErrNotFound means that there is no such node, or no such key.
var ErrNotFound = errors.New("not found")

// AuthKey is a pre-authentication key: a client with its secret becomes a node.
type AuthKey struct {
	ID        string
	Secret    string
	Reusable  bool
	Ephemeral bool
	Tags      []string
	User      string // the user of nodes without tags; empty: the owner
	Foreign   bool   // the user is of another tailnet, and nodes can be shared with it
	Expires   time.Time
	Used      bool
}

// Node is a member of the tailnet, as the control plane knows it.
type Node struct {
	ID        tailcfg.NodeID
	Machine   key.MachinePublic
	Key       key.NodePublic
	Disco     key.DiscoPublic
	Hostname  string // the requested name
	Name      string // the assigned name, unique in the tailnet
	Addresses []netip.Addr
	Tags      []string
	Login     string   // the user, if the node has no tags
	Foreign   bool     // of another tailnet: it and the nodes that are shared with Login see each other
	Shared    []string // the logins that the node is shared with
	Ephemeral bool
	Hostinfo  *tailcfg.Hostinfo
	Endpoints []netip.AddrPort
	HomeDERP  tailcfg.DERPRegionID
	Version   tailcfg.CapabilityVersion
	Created   time.Time
	LastSeen  time.Time
	KeyExpiry time.Time // zero: never

	streams int    // open long polls: the node is online if there are any
	edition uint64 // the tailnet's edition when this node was changed last
}

// Online reports whether the node has an open long poll.
func (n *Node) Online() bool { return n.streams > 0 }

// StableID is the node's ID in the form that clients and APIs use. It is the number, as in Headscale; Tailscale's is opaque.
func (n *Node) StableID() tailcfg.StableNodeID {
	return tailcfg.StableNodeID(strconv.FormatInt(int64(n.ID), 10))
}

func (n *Node) expired(now time.Time) bool {
	return !n.KeyExpiry.IsZero() && n.KeyExpiry.Before(now)
}

// Tailnet contains the nodes and the keys. Its methods may be called concurrently.
type Tailnet struct {
	Domain           string        // the domain of MagicDNS, such as tailnet.test
	EphemeralTimeout time.Duration // after this time, an ephemeral node that is offline is deleted
	Batch            time.Duration // clients receive changes once per interval; zero: at once

	mu      sync.Mutex
	nodes   map[tailcfg.NodeID]*Node
	keys    map[string]*AuthKey // by ID
	access  Access
	tokens  map[string]token
	lastID  tailcfg.NodeID
	policy  *Policy // nil: every node may reach every node
	encoded map[tailcfg.NodeID]encodedPeer
	edition uint64
	changed chan struct{} // closed and replaced when clients must read new editions
	pending bool          // changed will be closed at the end of the batch
	dirty   bool          // the state differs from the state file
}

// NewTailnet returns an empty tailnet.
func NewTailnet(domain string, ephemeralTimeout time.Duration) *Tailnet {
	return &Tailnet{
		Domain:           domain,
		EphemeralTimeout: ephemeralTimeout,
		nodes:            map[tailcfg.NodeID]*Node{},
		keys:             map[string]*AuthKey{},
		tokens:           map[string]token{},
		encoded:          map[tailcfg.NodeID]encodedPeer{},
		changed:          make(chan struct{}),
	}
}

// touch begins a new edition of the tailnet, in which n is new or changed. n is nil when a node was deleted.
func (t *Tailnet) touch(n *Node) {
	t.edition++
	t.dirty = true
	if n != nil {
		n.edition = t.edition
	}
	switch {
	case t.Batch == 0:
		t.tell()
	case !t.pending:
		t.pending = true
		now := time.Now()
		time.AfterFunc(now.Truncate(t.Batch).Add(t.Batch).Sub(now), func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.tell()
		})
	}
}

// tell notifies all clients of new editions.
func (t *Tailnet) tell() {
	t.pending = false
	close(t.changed)
	t.changed = make(chan struct{})
}

// MintKey creates an auth key from a template, with a new ID and secret, that expires after the given time.
func (t *Tailnet) MintKey(template AuthKey, expiry time.Duration) AuthKey {
	template.ID = "k" + rand.Text()[:12]
	template.Secret = "tskey-auth-" + template.ID + "-" + rand.Text()
	template.Expires = time.Now().Add(expiry)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys[template.ID] = &template
	t.dirty = true
	return template
}

// ExpireKey makes the key invalid. Nodes that registered with it stay.
func (t *Tailnet) ExpireKey(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.keys[id]
	if !ok {
		return fmt.Errorf("key %q: %w", id, ErrNotFound)
	}
	k.Expires = time.Now()
	t.dirty = true
	return nil
}

// useKey returns the key with that secret, and marks it as used.
func (t *Tailnet) useKey(secret string) (*AuthKey, error) {
	for _, k := range t.keys {
		if k.Secret != secret {
			continue
		}
		if !k.Expires.After(time.Now()) {
			return nil, errKeyExpired
		}
		if k.Used && !k.Reusable {
			return nil, errKeyUsed
		}
		k.Used = true
		return k, nil
	}
	return nil, errKeyUnknown
}

// Nodes returns copies of all nodes, in the order of their IDs.
func (t *Tailnet) Nodes() []Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Node
	for _, n := range t.nodes {
		all = append(all, *n)
	}
	slices.SortFunc(all, func(a, b Node) int { return int(a.ID - b.ID) })
	return all
}

// Delete deletes a node. Its peers are told, and its own polls end and are rejected from then on.
func (t *Tailnet) Delete(id tailcfg.NodeID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forget(id)
}

func (t *Tailnet) forget(id tailcfg.NodeID) error {
	if _, ok := t.nodes[id]; !ok {
		return fmt.Errorf("node %d: %w", id, ErrNotFound)
	}
	delete(t.nodes, id)
	delete(t.encoded, id)
	t.touch(nil)
	return nil
}

// Update changes a node through the given function, and notifies all clients.
func (t *Tailnet) Update(id tailcfg.NodeID, change func(*Node)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.nodes[id]
	if !ok {
		return fmt.Errorf("node %d: %w", id, ErrNotFound)
	}
	change(n)
	t.touch(n)
	return nil
}

// Rename gives a node another name; if the name is taken, a number is added.
func (t *Tailnet) Rename(id tailcfg.NodeID, name string) error {
	return t.Update(id, func(n *Node) { n.Name = t.freeName(name, id) })
}

// ExpireNode expires the node's key: the node must authenticate again, and stays the same node if it does.
func (t *Tailnet) ExpireNode(id tailcfg.NodeID) error {
	return t.Update(id, func(n *Node) { n.KeyExpiry = time.Now() })
}

// Share shares a node with a user of another tailnet.
func (t *Tailnet) Share(id tailcfg.NodeID, login string) error {
	return t.Update(id, func(n *Node) { n.Shared = append(n.Shared, login) })
}

// SetPolicy replaces the policy; nil removes it.
func (t *Tailnet) SetPolicy(p *Policy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policy, t.access.TagOwners = p, nil
	if p != nil {
		t.access.TagOwners = p.tagOwners
	}
	t.touch(nil)
}

// Sweep deletes the ephemeral nodes that have been offline for too long.
func (t *Tailnet) Sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, n := range t.nodes {
		if n.Ephemeral && !n.Online() && now.Sub(n.LastSeen) > t.EphemeralTimeout {
			t.forget(id)
		}
	}
}

// register admits a node, or returns the reason as an error. needsLogin means that a person would have to log in, because the request has
// neither the key of a node nor an auth key.
func (t *Tailnet) register(machine key.MachinePublic, req *tailcfg.RegisterRequest) (n *Node, needsLogin bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()

	known := t.byMachine(machine)
	if known != nil && known.Key == req.NodeKey {
		if isLogout(req) {
			return known, false, t.logout(known)
		}
		if !known.expired(time.Now()) {
			t.introduce(known, req)
			return known, false, nil
		}
	}
	if isLogout(req) {
		return nil, false, nil
	}
	if req.Auth == nil || req.Auth.AuthKey == "" {
		return known, true, nil
	}
	if asked := req.Hostinfo.RequestTags; len(asked) > 0 {
		// As with Headscale: a node gets the tags of its key, and may not request any.
		return nil, false, fmt.Errorf("requested tags %q are invalid or not permitted", asked)
	}
	k, err := t.useKey(req.Auth.AuthKey)
	if err != nil {
		return nil, false, err
	}
	if known == nil {
		known = t.newNode(machine)
	}
	known.Key, known.KeyExpiry = req.NodeKey, time.Time{}
	known.Tags, known.Ephemeral = slices.Clone(k.Tags), k.Ephemeral
	known.Login, known.Foreign = cmp.Or(k.User, t.owner()), k.Foreign
	t.introduce(known, req)
	return known, false, nil
}

// owner is the login of the tailnet's owner.
func (t *Tailnet) owner() string { return "owner@" + t.Domain }

func isLogout(req *tailcfg.RegisterRequest) bool {
	return !req.Expiry.IsZero() && req.Expiry.Before(time.Now())
}

// logout deletes an ephemeral node; any other node must authenticate again.
func (t *Tailnet) logout(n *Node) error {
	if n.Ephemeral {
		return t.forget(n.ID)
	}
	n.KeyExpiry = time.Now().Add(-time.Second)
	t.touch(n)
	return nil
}

func (t *Tailnet) byMachine(machine key.MachinePublic) *Node {
	for _, n := range t.nodes {
		if n.Machine == machine {
			return n
		}
	}
	return nil
}

// poller returns the node that may poll with these keys, or nil.
func (t *Tailnet) poller(machine key.MachinePublic, node key.NodePublic) *Node {
	if n := t.byMachine(machine); n != nil && n.Key == node {
		return n
	}
	return nil
}

func (t *Tailnet) newNode(machine key.MachinePublic) *Node {
	t.lastID++
	v4 := netip.AddrFrom4([4]byte{100, 64, byte(t.lastID >> 8), byte(t.lastID)})
	n := &Node{
		ID:        t.lastID,
		Machine:   machine,
		Addresses: []netip.Addr{v4, tsaddr.Tailscale4To6(v4)},
		Created:   time.Now(),
		LastSeen:  time.Now(),
	}
	t.nodes[n.ID] = n
	return n
}

// AddStranger adds a node that is online but runs nowhere. Its peers see it like any other node, but get no answers from it. Measurements
// use such nodes to enlarge a tailnet.
func (t *Tailnet) AddStranger(hostname string, tags []string) Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.newNode(key.NewMachine().Public())
	n.Key, n.Disco = key.NewNode().Public(), key.NewDisco().Public()
	n.Tags, n.Version, n.streams = slices.Clone(tags), tailcfg.CurrentCapabilityVersion, 1
	last := n.Addresses[0].As4()[3]
	n.Endpoints = []netip.AddrPort{ // RFC 5737: documentation addresses, which no machine has
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 41641),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, last}), 41641),
	}
	t.describe(n, &tailcfg.Hostinfo{
		Hostname: hostname, OS: "linux", OSVersion: "6.12.0", Distro: "debian", DistroVersion: "13", GoArch: "amd64", Machine: "x86_64",
		IPNVersion: "1.102.5", BackendLogID: strings.Repeat("0", 64), NetInfo: &tailcfg.NetInfo{PreferredDERP: 1},
	})
	t.touch(n)
	return *n
}

// Appear makes a node that runs nowhere go online or offline.
func (t *Tailnet) Appear(id tailcfg.NodeID, online bool) error {
	return t.Update(id, func(n *Node) {
		n.streams, n.LastSeen = 0, time.Now()
		if online {
			n.streams = 1
		}
	})
}

// introduce updates a node from its registration.
func (t *Tailnet) introduce(n *Node, req *tailcfg.RegisterRequest) {
	n.Version = req.Version
	t.describe(n, req.Hostinfo)
	t.touch(n)
}

// describe updates a node's Hostinfo, and assigns a new name if the hostname has changed.
func (t *Tailnet) describe(n *Node, hostinfo *tailcfg.Hostinfo) {
	if hostinfo == nil {
		return
	}
	if n.Name == "" || hostinfo.Hostname != n.Hostname {
		n.Hostname = hostinfo.Hostname
		n.Name = t.freeName(hostinfo.Hostname, n.ID)
	}
	n.Hostinfo = hostinfo
	if ni := hostinfo.NetInfo; ni != nil && ni.PreferredDERP != 0 {
		n.HomeDERP = ni.PreferredDERP
	}
}

// freeName returns a DNS label for a hostname that no other node has: web, web-1, web-2, …
func (t *Tailnet) freeName(hostname string, id tailcfg.NodeID) string {
	base := strings.Trim(dnsname.SanitizeHostname(hostname), "-")
	if base == "" {
		base = "node"
	}
	name := base
	for i := 1; t.nameTaken(name, id); i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	return name
}

func (t *Tailnet) nameTaken(name string, except tailcfg.NodeID) bool {
	for _, n := range t.nodes {
		if n.ID != except && n.Name == name {
			return true
		}
	}
	return false
}
