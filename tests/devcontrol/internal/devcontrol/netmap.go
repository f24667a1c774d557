package devcontrol

import (
	"cmp"
	"encoding/json"
	"hash/fnv"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/opt"
)

const (
	ownerID  tailcfg.UserID = 1 // the user of all nodes without tags
	taggedID tailcfg.UserID = 2 // as with Tailscale, tagged nodes belong to no person
)

// mapResponse is a MapResponse whose peers are already encoded, because each new node receives all others, and all others receive it.
type mapResponse struct {
	*tailcfg.MapResponse
	Peers        []json.RawMessage `json:",omitempty"`
	PeersChanged []json.RawMessage `json:",omitempty"`
}

// encodedPeer is an edition of a node, encoded as JSON.
type encodedPeer struct {
	edition uint64
	text    json.RawMessage
}

// netmap records what a streaming client has received, so that it receives only news.
type netmap struct {
	tailnet *Tailnet
	derp    *tailcfg.DERPMap
	self    tailcfg.NodeID
	told    map[tailcfg.NodeID]uint64 // node → the edition that the client has
	filter  []tailcfg.FilterRule
	users   []tailcfg.UserProfile
}

// next returns what the client does not know yet: everything at first, then the difference, nil if there is none. ok is false if the
// client's own node no longer exists. changed is closed as soon as there may be more news.
func (m *netmap) next() (res *mapResponse, changed <-chan struct{}, ok bool) {
	t := m.tailnet
	t.mu.Lock()
	defer t.mu.Unlock()
	self, ok := t.nodes[m.self]
	if !ok {
		return nil, nil, false
	}
	first := m.told == nil
	if first {
		m.told = map[tailcfg.NodeID]uint64{}
		res = &mapResponse{MapResponse: m.everything(self)}
	} else {
		res = &mapResponse{MapResponse: &tailcfg.MapResponse{}}
	}
	if m.isNews(self) {
		res.Node = t.wireSelf(self)
	}
	peers := m.newPeers(self)
	if first {
		res.Peers = peers
	} else {
		res.PeersChanged, res.PeersRemoved = peers, m.gone(self)
	}
	if filter := t.filter(self); first || !reflect.DeepEqual(filter, m.filter) {
		res.PacketFilters = map[string][]tailcfg.FilterRule{"base": filter}
		m.filter = filter
	}
	if !first && res.Node == nil && peers == nil && res.PeersRemoved == nil && res.PacketFilters == nil {
		return nil, t.changed, true
	}
	if users := t.profiles(); !reflect.DeepEqual(users, m.users) {
		res.UserProfiles, m.users = users, users
	}
	return res, t.changed, true
}

// everything returns the parts of a netmap that do not change.
func (m *netmap) everything(self *Node) *tailcfg.MapResponse {
	now := time.Now()
	domain := m.tailnet.domain(self)
	return &tailcfg.MapResponse{
		DERPMap:         m.derp,
		Domain:          domain,
		CollectServices: opt.False,
		DNSConfig:       &tailcfg.DNSConfig{Proxied: true, Domains: []string{domain}},
		ControlTime:     &now,
	}
}

// filter returns what may arrive at a node. A foreign node accepts everything, because its own tailnet decides that.
func (t *Tailnet) filter(self *Node) []tailcfg.FilterRule {
	if t.policy == nil || self.Foreign {
		return tailcfg.FilterAllowAll
	}
	var others []*Node
	for _, n := range t.nodes {
		if n != self && t.sees(self, n) {
			others = append(others, n)
		}
	}
	slices.SortFunc(others, func(a, b *Node) int { return int(a.ID - b.ID) })
	return t.policy.filter(self, others)
}

// sees reports whether two nodes are in each other's netmap: nodes of the tailnet if the policy lets one of them reach the other, a foreign
// node and the nodes that are shared with its user.
func (t *Tailnet) sees(a, b *Node) bool {
	switch {
	case a.Foreign && b.Foreign:
		return false
	case a.Foreign:
		return slices.Contains(b.Shared, a.Login)
	case b.Foreign:
		return slices.Contains(a.Shared, b.Login)
	}
	return t.policy == nil || t.policy.connects(a, b) || t.policy.connects(b, a)
}

// domain returns the domain of the tailnet that a node belongs to.
func (t *Tailnet) domain(n *Node) string {
	if _, domain, ok := strings.Cut(n.Login, "@"); ok && n.Foreign {
		return domain
	}
	return t.Domain
}

// userID returns the ID of a login.
func (t *Tailnet) userID(login string) tailcfg.UserID {
	if login == "" || login == t.owner() {
		return ownerID
	}
	hash := fnv.New32a()
	hash.Write([]byte(login))
	return taggedID + 1 + tailcfg.UserID(hash.Sum32())
}

// profiles returns the profiles of all users who have a node, in the order of their IDs.
func (t *Tailnet) profiles() []tailcfg.UserProfile {
	profiles := []tailcfg.UserProfile{
		{ID: ownerID, LoginName: t.owner(), DisplayName: "Owner"},
		{ID: taggedID, LoginName: "tagged-devices", DisplayName: "Tagged Devices"},
	}
	for _, n := range t.nodes {
		if n.Login != "" && n.Login != t.owner() {
			profiles = append(profiles, tailcfg.UserProfile{ID: t.userID(n.Login), LoginName: n.Login, DisplayName: n.Login})
		}
	}
	slices.SortFunc(profiles, func(a, b tailcfg.UserProfile) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(profiles, func(a, b tailcfg.UserProfile) bool { return a.ID == b.ID })
}

// isNews reports whether the client does not have the current edition of a node, and records that it gets it.
func (m *netmap) isNews(n *Node) bool {
	if told, ok := m.told[n.ID]; ok && told == n.edition {
		return false
	}
	m.told[n.ID] = n.edition
	return true
}

func (m *netmap) newPeers(self *Node) (peers []json.RawMessage) {
	for _, id := range slices.Sorted(maps.Keys(m.tailnet.nodes)) {
		n := m.tailnet.nodes[id]
		if id != m.self && m.tailnet.sees(self, n) && m.isNews(n) {
			peers = append(peers, m.tailnet.encodePeer(self, n))
		}
	}
	return peers
}

// encodePeer returns a node as the viewer sees it, as JSON.
func (t *Tailnet) encodePeer(viewer, n *Node) json.RawMessage {
	if viewer.Foreign || !n.KeyExpiry.IsZero() { // it looks different to other viewers, or after its expiry
		return encode(t.wirePeer(viewer, n))
	}
	known, ok := t.encoded[n.ID]
	if !ok || known.edition != n.edition {
		known = encodedPeer{n.edition, encode(t.wirePeer(viewer, n))}
		t.encoded[n.ID] = known
	}
	return known.text
}

func encode(n *tailcfg.Node) json.RawMessage {
	text, err := json.Marshal(n)
	if err != nil {
		panic(err) // every node can be encoded
	}
	return text
}

func (m *netmap) gone(self *Node) (ids []tailcfg.NodeID) {
	for id := range m.told {
		if n, ok := m.tailnet.nodes[id]; !ok || (id != m.self && !m.tailnet.sees(self, n)) {
			ids = append(ids, id)
			delete(m.told, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// wirePeer returns a node as the viewer sees it. A user who was invited from another tailnet sees no tags, only the user who invited them,
// and the peer is in quarantine: the viewer can open connections to it, but it cannot open connections to the viewer
// (tailscale.com/kb/1084).
func (t *Tailnet) wirePeer(viewer, n *Node) *tailcfg.Node {
	w := t.wireNode(n)
	if viewer.Foreign {
		w.Tags, w.User, w.IsJailed = nil, ownerID, true
	}
	return w
}

// wireNode returns a node as its peers see it. Advertised routes are approved.
func (t *Tailnet) wireNode(n *Node) *tailcfg.Node {
	online, lastSeen := n.Online(), n.LastSeen
	w := &tailcfg.Node{
		ID:                n.ID,
		StableID:          n.StableID(),
		Name:              n.Name + "." + t.domain(n) + ".",
		User:              t.userID(n.Login),
		Key:               n.Key,
		KeyExpiry:         n.KeyExpiry,
		Machine:           n.Machine,
		DiscoKey:          n.Disco,
		Endpoints:         n.Endpoints,
		HomeDERP:          n.HomeDERP,
		Hostinfo:          n.Hostinfo.View(),
		Created:           n.Created,
		Cap:               n.Version,
		Tags:              n.Tags,
		Online:            &online,
		MachineAuthorized: true,
		Expired:           n.expired(time.Now()),
	}
	if !online {
		w.LastSeen = &lastSeen
	}
	if len(n.Tags) > 0 {
		w.User = taggedID
	}
	for _, a := range n.Addresses {
		w.Addresses = append(w.Addresses, netip.PrefixFrom(a, a.BitLen()))
	}
	w.AllowedIPs = slices.Clone(w.Addresses)
	if n.Hostinfo != nil {
		w.AllowedIPs = append(w.AllowedIPs, n.Hostinfo.RoutableIPs...)
		w.PrimaryRoutes = slices.DeleteFunc(slices.Clone(n.Hostinfo.RoutableIPs), tsaddr.IsExitRoute)
	}
	return w
}

// wireSelf returns a node as it sees itself, with its capabilities.
func (t *Tailnet) wireSelf(n *Node) *tailcfg.Node {
	w := t.wireNode(n)
	w.CapMap = tailcfg.NodeCapMap{
		tailcfg.CapabilityAdmin:                           nil,
		tailcfg.CapabilityFileSharing:                     nil,
		tailcfg.CapabilityHTTPS:                           nil,
		tailcfg.CapabilitySSH:                             nil,
		tailcfg.NodeAttrFunnel:                            nil,
		tailcfg.CapabilityFunnelPorts + "?ports=443,8443": nil,
	}
	return w
}
